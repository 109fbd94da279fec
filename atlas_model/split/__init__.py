"""Train, validation and test split.

`grouping`: groups products that share images. `assign`: assigns groups to splits and discards images. `leaks`: counts
products and near-duplicates that two splits share. `files`: writes the Parquet files. `report`: counts per category.
`names`: names of splits. `reasons`: why an image is discarded. `reviews`: applies the decisions of reviewers.
"""
