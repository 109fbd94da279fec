"""Structured data: `json_ld` and `microdata` as `nodes`; `offers`, `stock`; `structured` reads a product of them."""
