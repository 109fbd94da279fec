"""Import of tables: of local images, or folders as categories (`crawl.source: files`), and of URLs (`urls`).

The output tables are those of a crawl and a fetch. `table` reads rows of CSV, JSONL and Parquet, `entries` validates
a row's fields, `products` groups rows into products, `roles` guesses the columns. `folder` opens files inside one
folder only, `images` reads the products' images, `urls` tells which URLs to download, and
`references` are the keys of images in the output tables. Invalid rows are counted with a reason and do not end the run.
"""
