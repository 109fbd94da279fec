"""Drift between two crawls: `profile` (what is kept of a crawl), `embedding` (images), `distances` (how far apart)."""
