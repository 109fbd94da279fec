"""The zoom filter, which finds close-ups: is an image zoomed or normal (docs/zoom.md)?

`model`: the 3-layer CNN, and a filter on disk. `linear`: a linear layer on an encoder's features. `training`,
`scoring`: training and applying either. `reviewed`: the labels of reviewers. `contact_sheet`: a sheet of images that
the filter discards.
"""
