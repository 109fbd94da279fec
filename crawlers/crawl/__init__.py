"""A crawl from its sources to products.parquet.

`run` starts Scrapy (`crawlers.scrapy_app`) as a child process with a `job` and decides whether the result is accepted.
`journal`: what has been read so far, so that a crawl resumes. `reader_digests`: which code read a page. `pagination`:
when a listing ends. `aggregate`: the journal to rows; `product_grouping`: which pages are one product. `health`: how
well each shop was read; `contradictions`: breadcrumbs against labels; `reasons`: why a page was not read.
`snapshot_diff`: what changed between two crawls. `fetch_page`: one page for `atlas crawl try`.
"""
