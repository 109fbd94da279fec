"""HTML parsing: `document` (a page, over lxml), `elements`, `texts`, `xhtml`, and `bodies` (non-HTML responses)."""
