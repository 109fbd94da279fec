"""Tables between the stages, images, and a split as training reads it.

`schemas`: the Parquet tables. `images`, `png_metadata`: checking, decoding, resizing and hashing images.
`image_survey`: what a data set's images are like. `image_files`, `image_sources`: where images to predict come from.
`augmentation`: random changes to training images. `titles`: product titles as tokens. `dataset`: a split in memory.
`torchvision_compat`: torchvision beside a CPU build of torch.
"""
