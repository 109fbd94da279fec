"""Drift between two crawls: `profile` (summary of a crawl), `embedding` (of images), `distances` (between profiles)."""
