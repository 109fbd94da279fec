"""Category paths: normalised names (`names`), the taxonomy and its trie (`tree`), reading from files (`files`)."""
