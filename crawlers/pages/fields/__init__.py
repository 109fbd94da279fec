"""Readers of single fields: prices, currencies, images, labelled values, product numbers and URLs."""
