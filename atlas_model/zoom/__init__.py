"""Zoomed or normal: the filter for close-ups (docs/zoom.md).

`model`: the 3-layer CNN. `linear`: a linear layer on an encoder's features. `training`, `scoring`: fitting and applying
either. `contact_sheet`: an image of what is discarded.
"""
