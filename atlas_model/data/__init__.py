"""Tables, reviews, images, titles, and a split as training reads it.

`schemas`: the Parquet tables. `csv_cells`: cells that no spreadsheet takes for formulas. `reviews`, `decisions`:
records of reviewers, and what they decide together. `images`, `png_metadata`: validating, decoding, resizing and
hashing images. `image_survey`: statistics of a data set's images. `image_files`, `image_sources`: reading images from
folders and Parquet files. `augmentation`: random changes to training images. `titles`: product titles as tokens.
`dataset`: a split as a memory-mapped array. `torchvision_compat`: torchvision beside a CPU build of torch.
"""
