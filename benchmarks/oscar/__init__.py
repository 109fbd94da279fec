"""django-oscar, a shop of strangers with its own templates, crawled as a new user would: `make benchmark NAME=oscar`.

`settings`, `urls`, `catalogue`, `seed` and `serve` run in the shop's own environment and know nothing of Atlas; only
``__main__`` knows both sides, and only through files and HTTP.
"""
