"""The web: pages to products, picture URLs to pictures."""
