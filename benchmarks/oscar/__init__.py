"""Crawls django-oscar, a shop with its own templates, as a new user would: `make benchmark NAME=oscar`.

`settings`, `urls`, `catalogue`, `seed` and `serve` run in the shop's own environment without Atlas. ``__main__``
connects both, only through files and HTTP.
"""
