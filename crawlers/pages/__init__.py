"""Reading pages: one file per shop, named after it, and `schema_org` for every shop without one.

A page object reads a page that somebody else fetched; it makes no request and knows no label. A new shop gets a
file here with a `ListingPage` and a `ProductPage`, a line in `registry`, a saved page of each kind with the expected
item in tests/pages/, and that is all: the spider asks the registry for the abstract pages and gets the shop's.
"""
