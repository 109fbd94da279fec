"""Evaluation of a model on a split.

`evaluation`: predictions and metrics of a split. `search_runner`: the searches that are compared. `promotion`: whether
a new model is non-inferior to the champion.
"""
