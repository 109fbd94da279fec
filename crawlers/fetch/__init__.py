"""Fetching of image URLs: each distinct URL is requested once and gets a status; an interrupted run resumes.

- `client` (a package) sends the requests.
- `spool` stores the results: image bytes in `blobs`, everything else in an `index` (SQLite; `tables` has its schema).
- `asking` fetches the queue of a spool, `parts` does so in several processes, and `images` is the entry point.
- `check` validates that bytes are an image.
- `collect` writes the sorted output tables, and `restore` rebuilds a spool from them.
"""
