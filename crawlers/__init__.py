"""Crawling of shops to products, and fetching of image URLs to images."""
