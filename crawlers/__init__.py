"""The web: pages to products, image URLs to images."""
