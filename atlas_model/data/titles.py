"""Titles of products: text to scores of category paths.

A title is read as words, a word as hashed character n-grams and itself (fastText: Bojanowski et al. 2017, arXiv
1607.04606, section 3.2), so a word never seen in training is read by its parts, and no vocabulary is kept. Each n-gram
has a vector, and the mean of a title's vectors is what is known of it.

Knows nothing of files, trees or images.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

MAX_CHARACTERS = 300  # of a title that are read; the rest is left out
SHORTEST, LONGEST = 2, 5  # characters of an n-gram, boundary marks included
JOINED = 3  # adjacent words of a title that are looked up as one, at most
CACHED_WORDS = 2**14

Modality = Literal["image", "title", "image_and_title"]  # what a model that reads titles answers from

_PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))  # English: ending, and in the singular


def split_words(title: str) -> list[str]:
    """The words of ``title`` as they are read: NFC, case folded, without punctuation; of the first `MAX_CHARACTERS`.

    Letters, marks, digits and symbols (which include emoji) make words. All else separates them, hyphens and
    apostrophes too, so "T-shirt" is two words; and so does what is no text: control characters and lone surrogates.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", title[:MAX_CHARACTERS]).casefold())
    return "".join(character if _is_word_character(character) else " " for character in folded).split()


@lru_cache(CACHED_WORDS)
def ngram_ids(word: str, buckets: int) -> Int[np.ndarray, "n"]:
    """The bucket of each n-gram of ``<word>``, and of the whole where it is longer; the same on every machine."""
    marked = f"<{word}>"  # neither mark is of a word
    ngrams = [marked[i : i + n] for n in range(SHORTEST, LONGEST + 1) for i in range(len(marked) - n + 1)]
    if len(marked) > LONGEST:
        ngrams.append(marked)
    return np.array([crc32(ngram.encode()) % buckets for ngram in ngrams], dtype=np.int64)


class LabelWords:
    """The words of labels, to be taken out of titles: what is left tells no label by its own name.

    A word of a title is taken out where it is a word of a label, or is one but for an English plural on either side
    (shirts, watches, accessories, scarves); or where it and its neighbours, up to three words, written as one are
    a label's word or two of its neighbouring words ("T-shirt" and "T shirt" for Tshirts, "trackpants" for Track
    Pants). So all labels' words go, not those of the right label alone. Synonyms ("tee") stay, and so do words that
    merely contain a label's ("cargoshorts").

    Args:
        names: of the categories, of all levels.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._words: set[str] = set()
        for name in names:
            words = split_words(name)
            for word in (*words, "".join(words), *(one + other for one, other in pairwise(words))):
                self._words |= _singulars(word)

    def occur_in(self, title: str) -> bool:
        """Whether there is anything in ``title`` to be taken out."""
        return self.remove_from(title) != " ".join(split_words(title))

    def remove_from(self, title: str) -> str:
        """The words of ``title`` that are left, as they are read; the same for a title without any of a label's."""
        words = split_words(title)
        taken: set[int] = set()
        for length in range(1, JOINED + 1):
            for start in range(len(words) - length + 1):
                if not self._words.isdisjoint(_singulars("".join(words[start : start + length]))):
                    taken.update(range(start, start + length))
        return " ".join(word for index, word in enumerate(words) if index not in taken)


class TitleHead(nn.Module):
    """What a title alone says of each path: the mean of its n-grams' vectors, normalised, and one linear layer.

    A title that has a word of a label in it tells the category by that word. One that has none tells it by brand,
    material and occasion, which would not count beside such a word. So n-grams have one vector for titles of the one
    kind and another for those of the other.

    Args:
        buckets: number of vectors that n-grams share.
        size: of a vector.
        names: of the taxonomy's categories, of all levels.
        paths: number of paths.
        dropout: share of a title's features that are left out in training.
    """

    def __init__(self, buckets: int, size: int, names: Iterable[str], paths: int, dropout: float) -> None:
        super().__init__()
        self.buckets, self.words = buckets, LabelWords(names)
        self.ngrams = nn.EmbeddingBag(buckets, size, mode="mean")
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(size, paths)
        nn.init.normal_(self.ngrams.weight, std=0.03)

    def forward(self, titles: Sequence[str]) -> Float[Tensor, "b paths"]:
        """Logits of the paths; 0 where a title has no word."""
        ids = [self._ids(title) for title in titles]
        counts = torch.tensor([len(of_title) for of_title in ids])
        device = self.output.weight.device
        every = torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *ids])).to(device)
        mean = self.ngrams(every, (counts.cumsum(0) - counts).to(device))  # (b, size)
        scores: Tensor = self.output(self.dropout(self.norm(mean))).float()  # (b, paths)
        return torch.where((counts > 0).to(device).unsqueeze(1), scores, 0)

    def _ids(self, title: str) -> Int[np.ndarray, "n"]:
        ids = [ngram_ids(word, self.buckets) for word in split_words(title)]
        if not ids:
            return np.empty(0, dtype=np.int64)
        shift = self.buckets // 2 if self.words.occur_in(title) else 0
        return (np.concatenate(ids) + shift) % self.buckets


def rows_by_modality(titles: Sequence[str | None]) -> Iterator[tuple[Modality, Int[np.ndarray, "n"]]]:
    """The rows without a title, then those with one, where there are any; an image without is answered by itself."""
    titled = np.array([bool(title and split_words(title)) for title in titles], dtype=np.bool_)
    kinds: tuple[tuple[Modality, Bool[np.ndarray, "n"]], ...] = (("image", ~titled), ("image_and_title", titled))
    for given, chosen in kinds:
        if chosen.any():
            yield given, np.flatnonzero(chosen)


def augment_titles(
    titles: Sequence[str], words: LabelWords, generator: torch.Generator, *, strip: float, drop: float
) -> list[str]:
    """Titles as they may stand elsewhere: what a model learns from must not hang on one word.

    Args:
        titles: of training.
        words: of the labels.
        generator: of what happens to which title.
        strip: share of the titles that the words of labels are taken out of.
        drop: share of the words, of all titles, that are left out.
    """
    changed = []
    stripped = torch.rand(len(titles), generator=generator) < strip
    for title, without in zip(titles, stripped.tolist(), strict=True):
        left = (words.remove_from(title) if without else " ".join(split_words(title))).split()
        kept = torch.rand(len(left), generator=generator) >= drop
        changed.append(" ".join(word for word, keep in zip(left, kept.tolist(), strict=True) if keep))
    return changed


def _is_word_character(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMNS" and character not in "<>"


def _singulars(word: str) -> set[str]:
    """``word``, and whatever it may be the plural of."""
    found = {word}
    for ending, singular in _PLURALS:
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) > 1:
            found.add(word.removesuffix(ending) + singular)
    return found
