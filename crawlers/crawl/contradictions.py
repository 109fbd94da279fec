"""Counts products whose breadcrumb contradicts the label of the category page that lists them.

Category names differ between shops, so a breadcrumb with another name is not a contradiction by itself. It is one if it
names the category of another source, if other products of the same category page have its name in their breadcrumbs, or
if most of them share another breadcrumb. This detects promotion boxes that were read as part of a listing.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from crawlers.sources.csv_sources import Source

Trail = tuple[str, ...]

WORD = re.compile(r"[^\W\d_]{2,}")
GENERIC = {"category", "categories", "collection", "collections", "shop", "index", "html", "htm", "php", "list", "all"}
MIN_STEM = 3  # least letters that two forms of a word share
SHORT = 6  # letters; in a word up to this length only the last letter may differ
MAX_TRAILS = 1000  # distinct breadcrumbs that are counted per source
SHOWN = 3  # example URLs of a shop
MIN_PRODUCTS = 4  # least products of a source for the comparison with the most common breadcrumb
MOST = 0.5  # least share of the most common breadcrumb


@dataclass(frozen=True)
class ContradictedProducts:
    """A shop's products whose breadcrumbs name another category."""

    count: int
    urls: list[str]  # examples


@dataclass
class _Tally:
    """Counts of one source's products."""

    agree: int = 0
    other: int = 0  # products whose breadcrumb names the category of another source
    trails: Counter[Trail] = field(default_factory=Counter)  # breadcrumbs that name neither category
    examples: dict[Trail | None, list[str]] = field(default_factory=dict)  # breadcrumb -> URLs; None: see `other`


class Contradictions:
    """Counts contradictions for ``sources``, whose indices are their ranks."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._names = [_words_of(source.taxonomy[-1]) | _slug_of(source.url) for source in sources]
        self._upper = [_words_of(" ".join(source.taxonomy[:-1])) for source in sources]
        self._tallies: dict[int, _Tally] = {}
        self._judged = lru_cache(maxsize=10_000)(self._judge)

    def add(self, rank: int, breadcrumb: Sequence[str], url: str) -> None:
        """Count a product that got the label of the source of ``rank``."""
        trail = tuple(breadcrumb)
        if not trail:
            return
        tally, verdict = self._tallies.setdefault(rank, _Tally()), self._judged(rank, trail)
        if verdict is None:
            return
        if verdict:
            tally.agree += 1
            return
        named = self._names_another(rank, trail)
        tally.other += named
        if not named and (trail in tally.trails or len(tally.trails) < MAX_TRAILS):
            tally.trails[trail] += 1
        urls = tally.examples.setdefault(None if named else trail, [])
        if len(urls) < SHOWN:
            urls.append(url)

    def by_site(self) -> dict[str, ContradictedProducts]:
        """Site -> its contradicted products; only sites with any."""
        found: dict[str, ContradictedProducts] = {}
        for rank, tally in sorted(self._tallies.items()):
            trails = self._contrary(tally)
            count = tally.other + sum(tally.trails[trail] for trail in trails)
            if count:
                site = self._sources[rank].site
                before = found.get(site, ContradictedProducts(0, []))
                urls = [url for key in (None, *trails) for url in tally.examples.get(key, [])]
                found[site] = ContradictedProducts(before.count + count, (before.urls + urls)[:SHOWN])
        return dict(sorted(found.items()))

    def _judge(self, rank: int, trail: Trail) -> bool | None:
        """Whether ``trail`` names the category; None if it ends at a broader category, which is no evidence."""
        if any(_agree(self._names[rank], _words_of(name)) for name in trail):
            return True
        return None if _agree(self._upper[rank], _words_of(trail[-1])) else False

    def _names_another(self, rank: int, trail: Trail) -> bool:
        label, last = self._sources[rank].taxonomy, _words_of(trail[-1])
        others = (place for place, source in enumerate(self._sources) if source.taxonomy != label)
        return any(_agree(self._names[place], last) for place in others)

    @staticmethod
    def _contrary(tally: _Tally) -> list[Trail]:
        """The breadcrumbs that name neither category and contradict other products of the same source."""
        if tally.agree:
            return list(tally.trails)
        most, count = next(iter(tally.trails.most_common(1)), ((), 0))
        total = tally.trails.total()
        if total < MIN_PRODUCTS or count <= MOST * total:
            return []
        return [trail for trail in tally.trails if not set(trail[-1:]) & set(most) and most[-1] not in trail]


def _agree(one: frozenset[str], other: frozenset[str]) -> bool:
    return any(_is_same(word, name) for word in one for name in other)


@lru_cache(maxsize=10_000)
def _is_same(one: str, other: str) -> bool:
    """Whether two words are forms of one word ("Kurta", "Kurtis"), or one ends with the other ("Handbag", "Bags")."""
    short, long = sorted((one, other), key=len)
    if not short.isascii() or not long.isascii():
        return short in long
    shared = next(
        (place for place, pair in enumerate(zip(short, long, strict=False)) if pair[0] != pair[1]), len(short)
    )
    stem = short.removesuffix("s")
    if len(stem) >= MIN_STEM and long.removesuffix("s").endswith(stem):
        return True
    return shared >= max(MIN_STEM, len(short) - (1 if len(short) <= SHORT else 2))


@lru_cache(maxsize=10_000)
def _words_of(text: str) -> frozenset[str]:
    plain = "".join(one for one in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(one))
    return frozenset(WORD.findall(plain)) - GENERIC


def _slug_of(url: str) -> frozenset[str]:
    """The words in the last path segment of a category's URL."""
    parts = urlsplit(url)
    segments = [segment for segment in unquote(parts.path).split("/") if _words_of(segment)]
    return _words_of(segments[-1]) if segments else frozenset()
