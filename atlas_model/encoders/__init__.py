"""Images to a grid of feature vectors.

`encoder`, with networks of torchvision, `efficientnet_lite` and `timm_encoders`.
"""
