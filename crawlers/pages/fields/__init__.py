"""One field of a product each: prices, currencies, images, labelled values, product URLs."""
