"""An HTML page: `document` over lxml, its `elements` and `texts`; `xhtml`; `bodies` of pages that are no HTML."""
