"""Category paths.

Their names in one form (`names`), the tree and its trie (`tree`), reading them from files (`files`).
"""
