"""Type-to-find over the paths of a taxonomy: some milliseconds for 100,000 paths.

An inverted index: for each word the paths that have it. The words are few, so a query scans them for those that begin
with a word of the query, and marks their paths in an array.
"""

import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int

from atlas_model.taxonomy.tree import Taxonomy

MAX_WORDS = 8  # of a query
END_OF_PREFIX = "\U0010ffff"

Places = dict[str, Int[np.ndarray, "_"]]  # word -> paths


class Finder:
    """Finds paths by words.

    A path is found if each word of the query begins a word in it, or, if there are too few of these, occurs in it.
    Accents and capitals do not matter. A path comes first if its last name begins with a word of the query, then if
    another word of its last name does; among equals, short paths come first.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        folded = [[_words(name) for name in path] for path in taxonomy.paths]
        self._count = len(folded)
        self._everywhere = _places([word for name in names for word in name] for names in folded)
        self._in_last = _places(names[-1] for names in folded)
        self._begins_last = _places(names[-1][:1] for names in folded)
        self._vocabulary = sorted(self._everywhere)
        sizes = zip(taxonomy.paths, taxonomy.labels, strict=True)
        self._size = np.array([10_000 * len(path) + len(label) for path, label in sizes])  # by depth, then by length

    def find(self, query: str, limit: int = 20) -> list[int]:
        """Indices of the paths in the taxonomy, best first."""
        words = _words(query)[:MAX_WORDS]
        if not words:
            return []
        begun = [self._beginning_with(word) for word in words]
        found = self._with_all(begun, self._everywhere)
        ranks = [self._with_any(begun, places) & found for places in (self._begins_last, self._in_last)]
        best = self._first([*ranks, found], limit)
        if len(best) < limit:
            containing = [[each for each in self._vocabulary if word in each] for word in words]
            best = self._first([*ranks, found, self._with_all(containing, self._everywhere)], limit)
        return best

    def _beginning_with(self, word: str) -> list[str]:
        start = bisect_left(self._vocabulary, word)
        return self._vocabulary[start : bisect_left(self._vocabulary, word + END_OF_PREFIX)]

    def _marked(self, words: Iterable[str], places: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "paths"]:
        marked = np.zeros(self._count, dtype=bool)
        for word in words:
            if word in places:
                marked[places[word]] = True
        return marked

    def _with_all(self, groups: list[list[str]], places: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "paths"]:
        found = np.ones(self._count, dtype=bool)
        for group in sorted(groups, key=len):
            found &= self._marked(group, places)
        return found

    def _with_any(self, groups: list[list[str]], places: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "paths"]:
        return self._marked((word for group in groups for word in group), places)

    def _first(self, ranks: list[Bool[np.ndarray, "paths"]], limit: int) -> list[int]:
        """The first ``limit`` paths of the first rank, then of the next ones."""
        best: dict[int, None] = {}
        for rank in ranks:
            rows = np.flatnonzero(rank)
            if len(rows) > 2 * limit:
                sizes = self._size[rows]
                rows = rows[sizes <= np.partition(sizes, 2 * limit - 1)[2 * limit - 1]]  # all that may be among them
            best |= dict.fromkeys(rows[np.argsort(self._size[rows], kind="stable")].tolist())
            if len(best) >= limit:
                break
        return list(best)[:limit]


def _places(words_of_paths: Iterable[Sequence[str]]) -> Places:
    found: dict[str, list[int]] = {}
    for index, words in enumerate(words_of_paths):
        for word in words:
            found.setdefault(word, []).append(index)
    return {word: np.array(indices) for word, indices in found.items()}


@lru_cache(65_536)  # names occur in many paths
def _words(text: str) -> tuple[str, ...]:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    return tuple(
        "".join(character if character.isalnum() else " " for character in plain if character not in "'’").split()
    )
