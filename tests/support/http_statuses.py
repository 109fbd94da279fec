"""Statuses that are transient, and a page that comes with one."""

TRANSIENT = {408, 425, 429, *range(500, 512), *range(520, 531), 599}
# As CDNs send it: it asks robots not to index the error page.
ERROR_PAGE = '<html><head><meta name="robots" content="noindex"></head><body>Try again</body></html>'
