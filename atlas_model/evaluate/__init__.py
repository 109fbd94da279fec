"""Evaluation of a model on a split.

`evaluation`: metrics per split and level. `search_runner`: the searches that are compared. `promotion`: whether a new
model is non-inferior to the champion.
"""
