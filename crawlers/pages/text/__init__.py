"""Words and values in the text of a page: prices, numbers, names, labels in several languages."""
