"""Readers of listing pages: product `tiles`, the choice among `groups` of tiles, the `pager`."""
