"""Listing pages: product `tiles`, `groups` of similar elements, the `pager`."""
