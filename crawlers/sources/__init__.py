"""Sources of product URLs: a CSV of category pages (`csv_sources`), a JSON `manifest`, and `sitemaps`.

`json_stream` reads JSON of any size.
"""
