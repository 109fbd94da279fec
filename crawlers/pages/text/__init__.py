"""Parsing of text: prices, product numbers, URLs, and words of shops in many languages."""
