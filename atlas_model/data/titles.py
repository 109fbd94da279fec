"""Product titles: tokenisation, augmentation, and a classifier of category paths.

A title is split into words, a word into hashed character n-grams and the word itself (fastText: Bojanowski et al. 2017,
arXiv 1607.04606, section 3.2). So unseen words are represented by their parts, without a vocabulary. The features of a
title are the mean of the embeddings of its n-grams.
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

MAX_CHARACTERS = 300  # of a title; the rest is ignored
SHORTEST, LONGEST = 2, 5  # characters of an n-gram, boundary marks included
JOINED = 3  # maximum number of adjacent words of a title that are looked up as one
CACHED_WORDS = 2**14

Modality = Literal["image", "title", "image_and_title"]  # the input of a model that reads titles

_PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))  # English: endings


def split_words(title: str) -> list[str]:
    """Split the first `MAX_CHARACTERS` of ``title`` into words: NFC, case-folded, without punctuation.

    Words consist of letters, marks, digits and symbols (including emoji). Other characters separate them: hyphens and
    apostrophes ("T-shirt" is two words), control characters and lone surrogates.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", title[:MAX_CHARACTERS]).casefold())
    return "".join(character if _is_word_character(character) else " " for character in folded).split()


@lru_cache(CACHED_WORDS)
def ngram_ids(word: str, buckets: int) -> Int[np.ndarray, "n"]:
    """The bucket of each n-gram of ``<word>``, and of all of it if it is longer; the same on every machine."""
    marked = f"<{word}>"  # words contain neither mark
    ngrams = [marked[i : i + n] for n in range(SHORTEST, LONGEST + 1) for i in range(len(marked) - n + 1)]
    if len(marked) > LONGEST:
        ngrams.append(marked)
    return np.array([crc32(ngram.encode()) % buckets for ngram in ngrams], dtype=np.int64)


class LabelWords:
    """The words of all labels, to remove them from titles, so that no title contains the name of a label.

    A word of a title is removed if it is a word of a label, also in an English plural or singular (shirts, watches,
    accessories, scarves). So are up to three adjacent words if, joined, they are one word or two adjacent words of a
    label ("T-shirt" and "T shirt" for Tshirts, "trackpants" for Track Pants). The words of all labels are removed,
    not only those of the right one. Synonyms ("tee") stay, and so do words that contain a label's ("cargoshorts").

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
        """Whether ``title`` contains a word of a label."""
        return self.remove_from(title) != " ".join(split_words(title))

    def remove_from(self, title: str) -> str:
        """Return the words of ``title`` that are not a label's, as `split_words` gives them."""
        words = split_words(title)
        taken: set[int] = set()
        for length in range(1, JOINED + 1):
            for start in range(len(words) - length + 1):
                if not self._words.isdisjoint(_singulars("".join(words[start : start + length]))):
                    taken.update(range(start, start + length))
        return " ".join(word for index, word in enumerate(words) if index not in taken)


class TitleHead(nn.Module):
    """Classifies paths by title alone: mean embedding of the n-grams, layer norm, one linear layer.

    If a title contains a word of a label, that word determines the category, and brand, material and occasion have
    little weight. So each n-gram has two embeddings: one for titles with a label's word and one for titles without.

    Args:
        buckets: number of embeddings that n-grams share.
        size: of an embedding.
        names: of the taxonomy's categories, of all levels.
        paths: number of paths.
        dropout: of a title's features.
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
        """Logits of the paths; 0 for titles without a word."""
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
    """Yield the rows without a title ("image"), then those with one, each group only if it has rows."""
    titled = np.array([bool(title and split_words(title)) for title in titles], dtype=np.bool_)
    kinds: tuple[tuple[Modality, Bool[np.ndarray, "n"]], ...] = (("image", ~titled), ("image_and_title", titled))
    for given, chosen in kinds:
        if chosen.any():
            yield given, np.flatnonzero(chosen)


def augment_titles(
    titles: Sequence[str], words: LabelWords, generator: torch.Generator, *, strip: float, drop: float
) -> list[str]:
    """Augment training titles, so that a model does not depend on single words.

    Args:
        titles: of training.
        words: of the labels.
        generator: of the random choices.
        strip: share of the titles from which the words of labels are removed.
        drop: share of all words that are removed.
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
    """``word``, and the words of which it may be the plural."""
    found = {word}
    for ending, singular in _PLURALS:
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) > 1:
            found.add(word.removesuffix(ending) + singular)
    return found
