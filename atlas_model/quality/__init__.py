"""Data quality: which images, and which labels, a person should look at. Nothing is discarded here.

`measures`: brightness, entropy and blur of a decoded image. `issues`: scores of images from these, by kind of issue.
`duplicates`: images of several products. `outliers`, on `gaussians`: images unlike every category. `label_errors`, on
`logistic`: labels that are likely wrong. Scores are in [0, 1]; 1 is the most suspicious.
"""
