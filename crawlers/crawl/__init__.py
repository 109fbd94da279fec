"""The crawl, from its sources to products.parquet.

- `run` starts Scrapy (`crawlers.scrapy_app`) as a child process, and accepts or rejects the result.
- `job` is the input and the report of that process.
- `journal` is the SQLite file of the pages read so far, from which a crawl resumes.
- `reader_digests` detects journal rows that other code has read.
- `pagination` decides where a listing ends.
- `aggregate` converts the journal to rows of products.parquet; `product_grouping` finds pages of the same product.
- `health` compares the fields read per shop with the last accepted crawl; `contradictions` compares breadcrumbs with
  labels; `reasons` explains why pages were discarded.
- `snapshot_diff` compares two crawls.
- `fetch_page` fetches a single page for `atlas crawl try`.
"""
