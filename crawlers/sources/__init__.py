"""Where product URLs come from: category pages in a CSV (`csv_sources`), a JSON `manifest`, `sitemaps`."""
