"""Evaluation of a model on a split.

`evaluation`: predictions and metrics of a split. `embeddings`: the images of a split as vectors. `search_runner`: the
searches that are compared. `promotion`: whether a new model is non-inferior to the champion.
"""
