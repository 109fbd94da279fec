"""Structured data of a page: schema.org nodes and their values.

`json_ld` and `microdata` parse nodes, `nodes` reads their values. `structured` reads a product from them, with `offers`
for its price and `stock` for its availability.
"""
