"""Train, validation and test split.

`grouping`: which images must stay together. `assign`: which group goes to which split. `leaks`: proof that no two
splits share a product or near-duplicates. `files`: Parquet files. `report`: counts per category. `names`: names of
splits.
"""
