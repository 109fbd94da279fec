"""Category paths: normalised names, the taxonomy, and changes between its versions.

`names` normalises names, `tree` has the taxonomy and its trie, `files` reads taxonomies, `changes` reads what was
renamed, merged, split or removed between two versions.
"""
