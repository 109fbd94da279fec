"""Type-to-find over the paths of a taxonomy: a few milliseconds for 100,000 paths.

All paths are one text, in which special characters mark where a path, a name and a word begin. A query is a search for
its longest word with such a mark before it, from the strictest mark to the loosest, until enough paths are found.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator

from atlas_model.taxonomy.tree import Taxonomy

PATH, LAST, WORD = "\x01", "\x02", "\x03"  # a path, the last name of a path, any word
CANDIDATES = 200  # found for each mark; the best of them are returned


class Finder:
    """Finds paths by words.

    A path is found if each word of the query begins a word in it, or, if there are too few of these, occurs in it.
    Accents and capitals do not matter.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._depths = [len(path) for path in taxonomy.paths]
        texts = [_marked(path) for path in taxonomy.paths]
        self._text = "".join(texts)
        self._starts = [0]
        for text in texts:
            self._starts.append(self._starts[-1] + len(text))

    def find(self, query: str, limit: int = 20) -> list[int]:
        """Indices of the paths in the taxonomy, best first: the last name begins with the query, then words in it."""
        words = _folded(query).replace(">", " ").split()[:8]
        if not words:
            return []
        words.sort(key=len, reverse=True)
        found: dict[int, None] = {}
        for mark, others in ((LAST + WORD, WORD), (WORD, WORD), ("", "")):
            batch: list[int] = []
            for index, text in self._containing(mark + words[0]):
                if index not in found and all(others + word in text for word in words[1:]):
                    batch.append(index)
                    if len(batch) == CANDIDATES:
                        break
            found.update(dict.fromkeys(sorted(batch, key=self._length)))
            if len(found) >= limit:
                break
        return list(found)[:limit]

    def _length(self, index: int) -> tuple[int, int]:
        return self._depths[index], self._starts[index + 1] - self._starts[index]

    def _containing(self, wanted: str) -> Iterator[tuple[int, str]]:
        """The paths whose text contains ``wanted``, in order."""
        place = self._text.find(wanted)
        while place >= 0:
            index = bisect_right(self._starts, place) - 1
            end = self._starts[index + 1]
            yield index, self._text[self._starts[index] : end]
            place = self._text.find(wanted, end)


def _marked(path: tuple[str, ...]) -> str:
    *before, last = (" ".join(WORD + word for word in _folded(name).split()) for name in path)
    return PATH + " ".join([*before, LAST + last])


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    return "".join(character if character.isalnum() else " " for character in plain if character not in "'’")
