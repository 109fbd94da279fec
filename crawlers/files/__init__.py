"""Import of local images and a table of them, or of folders as categories (`crawl.source: files`).

The output tables are those of a crawl and a fetch. `table` reads rows of CSV, JSONL and Parquet, `entries` validates
a row's fields, `products` groups rows into products, `roles` guesses the columns. `folder` opens files inside one
folder only, `images` reads the products' images, and `references` are the keys of images in the output tables. Invalid
rows are counted with a reason and do not end the run.
"""
