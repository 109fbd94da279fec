"""A table and a folder of images to the same tables that a crawl and a fetch write (`crawl.source: files`).

`table` reads rows of CSV, JSONL and Parquet, `entries` takes what a row says of a product, `products` puts the rows of
a product together. `folder` opens files in the folder and nowhere else, `images` reads every image that the products
name; `references` are those names. Faulty rows are counted with a reason and end no run.
"""
