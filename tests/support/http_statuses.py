"""Transient HTTP statuses, and an error page."""

TRANSIENT = {408, 425, 429, *range(500, 512), *range(520, 531), 599}
# As sent by CDNs: asks robots not to index the error page.
ERROR_PAGE = '<html><head><meta name="robots" content="noindex"></head><body>Try again</body></html>'
