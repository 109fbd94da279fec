"""Reading pages: what somebody else fetched becomes a `Product` or a `Listing`; no request is made here.

`registry` is the way in. Any shop is read by `generic`, each field by the readers that know it (`reading`): the shop's
profile and its platform's (`profile`, `selecting`), what the page says to machines (`structured`, over `json_ld`,
`microdata`, `nodes` and `offers`), guesses (`heuristics`, `prices`, `labelled`, `tiles`, `pager`). A shop that needs
more gets one YAML file here, named after it; one that needs code, a module with page objects and a line in `registry`.
`atlas crawl record` saves a page of it as its test.
"""
