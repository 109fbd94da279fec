"""Encoders: images to a grid of feature vectors.

`encoder`: the module, and networks of our own and of torchvision. `efficientnet_lite`, `timm_encoders`: other networks.
"""
