"""Extraction of a `Product` or a `Listing` from a fetched page. This package sends no request.

The entry point is `registry`. `generic` holds the page objects for any shop. `reading` tries several readers for each
field: selectors of the shop's or platform's YAML file (`profile`, `selecting`), structured data (`structured_data`) and
heuristics on plain HTML (`heuristics`, `fields`, `listings`). `page_kind` tells products from listings, `html` has the
parsed document, `text` reads words and numbers, and `items` has the results.

A shop that these misread gets a YAML file in this folder, named after the shop. A shop that needs code gets a module
with page objects (`shop_a`, `shop_b`) and an entry in `registry`. `shops` finds the shop of a host. `atlas crawl
record` saves a page as a test case (`saved`).
"""
