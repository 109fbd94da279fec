"""Sitemaps for tests."""


def urlset(*urls: str, name: str = "urlset", entry: str = "url") -> bytes:
    """A sitemap of ``urls``; ``name`` and ``entry`` are its elements."""
    entries = "".join(f"<{entry}><loc>{url}</loc></{entry}>" for url in urls)
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{space}">{entries}</{name}>'.encode()


def index(*urls: str) -> bytes:
    """A sitemap index that names the sitemaps ``urls``."""
    return urlset(*urls, name="sitemapindex", entry="sitemap")
