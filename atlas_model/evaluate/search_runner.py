"""Runs four searches on a chunk of a split's images, in any process.

Each image is encoded once, then searched (1) as in prediction; (2) at temperature 1, to measure the effect of
calibration; (3) without the constraint, to measure the effect of the taxonomy; (4) exactly, to measure the loss of the
beam and to get the probability of each node.

A chunk consists of whole batches. So the batch of an image, and with it the last digit of all figures, does not depend
on which worker searches a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from atlas_model.confidence.calibration import descend
from atlas_model.core.device import choose_device, single_threaded_torch
from atlas_model.data.dataset import to_device
from atlas_model.data.titles import LabelWords
from atlas_model.encoders.encoder import encode
from atlas_model.inference.engines import accelerate
from atlas_model.model.beam_search import SearchResult
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.evidence import ModelEvidence
from atlas_model.model.saved_models import load_categorizer
from atlas_model.taxonomy.tree import Taxonomy

EMBEDDING_SIZE = 512  # maximum dimensions of an embedding: 2 KB an image
CHUNK_BATCHES = 4  # batches per chunk, for which another process has to load the model

# The input of a model. A stripped title is without the words of all labels (`titles.LabelWords`).
InputVariant = Literal["image", "title", "image_and_title", "stripped_title", "image_and_stripped_title"]

Arrays = TypeVar("Arrays", "BestPaths", "ExactResult")


@dataclass(frozen=True)
class BestPaths:
    """The best path of each image."""

    path: Int[np.ndarray, "n"]
    log_probability: Float[np.ndarray, "n"]
    tokens: Int[np.ndarray, "n t"]

    @classmethod
    def of(cls, found: SearchResult) -> "BestPaths":
        """The first path of each image."""
        return cls(*(each[:, 0].cpu().numpy() for each in (found.path, found.log_probability, found.tokens)))

    @classmethod
    def of_paths(cls, log_p: Float[Tensor, "b paths"]) -> "BestPaths":
        """The most probable path, without tokens."""
        best, path = log_p.max(dim=1)
        return cls(path.cpu().numpy(), best.cpu().numpy(), np.empty((len(log_p), 0), dtype=np.int64))


@dataclass(frozen=True)
class ExactResult:
    """Results of exact search for each image."""

    path: Int[np.ndarray, "n"]
    right_log_probability: Float[np.ndarray, "n"]  # of the right path
    node: Int[np.ndarray, "n levels"]  # this and the next as in `calibration.Descent`
    node_probability: Float[np.ndarray, "n levels"]
    log_p: Float[np.ndarray, "n nodes"]  # of every node of the trie

    @classmethod
    def of(
        cls, found: SearchResult, log_p: Float[Tensor, "n nodes"], actual: Int[np.ndarray, "n"], taxonomy: Taxonomy
    ) -> "ExactResult":
        """Make it from the search's results and the right paths."""
        ends = torch.from_numpy(taxonomy.trie.routes[actual].max(axis=1)).to(log_p.device)
        right = log_p.gather(1, ends.unsqueeze(1)).squeeze(1)
        descent = descend(taxonomy.trie, log_p)
        return cls(
            found.path[:, 0].cpu().numpy(), right.cpu().numpy(), descent.node, descent.probability, log_p.cpu().numpy()
        )


@dataclass(frozen=True)
class Chunk:
    """Images of a split that one worker searches."""

    rows: Int[np.ndarray, "n"]
    actual: Int[np.ndarray, "n"]  # indices of the right paths
    sample: Bool[np.ndarray, "n"]  # whether to search exactly, too
    titles: Sequence[str] = ()  # of the images, if they are used

    def at(self, rows: slice) -> "Chunk":
        """Select images."""
        return Chunk(self.rows[rows], self.actual[rows], self.sample[rows], self.titles[rows])


@dataclass(frozen=True)
class SearchSettings:
    """Parameters of the searches; the fields as in `evaluate`."""

    beam: int
    length_normalization: float
    batch_size: int
    input_variants: tuple[InputVariant, ...] = ("image",)


@dataclass(frozen=True)
class StoredModel:
    """A model and a split's pixels on disk, for another process."""

    model: Path  # folder
    pixels: Path  # file of `dataset.Split.pixels`
    device: str  # as in `choose_device`


@dataclass(frozen=True)
class SearchOutputs:
    """Results of the searches of a chunk."""

    answers: BestPaths
    uncalibrated: BestPaths
    free: BestPaths | None  # without the constraint; None for models for which this is meaningless
    exact: ExactResult | None  # of the images in the sample; None if there are none
    embeddings: Float[np.ndarray, "n d"] | None = None  # of the images (`pooled_cells`); only of the variant "image"


def search_stored(chunk: Chunk, *, stored: StoredModel, settings: SearchSettings) -> dict[InputVariant, SearchOutputs]:
    """As `search`, with the model and the pixels from files."""
    device = choose_device(stored.device)
    pixels = np.load(stored.pixels, mmap_mode="r", allow_pickle=False)
    with single_threaded_torch():
        model, _ = load_categorizer(stored.model, device)
        accelerate(model, "torch", pixels=pixels.shape[1:], cache=None)
        return search(chunk, model=model, pixels=pixels, settings=settings, device=device)


@torch.inference_mode()
def search(
    chunk: Chunk,
    *,
    model: Categorizer,
    pixels: UInt8[np.ndarray, "n c h w"],
    settings: SearchSettings,
    device: torch.device,
) -> dict[InputVariant, SearchOutputs]:
    """Search the images of ``chunk`` with all input variants, batch by batch; each image is encoded once."""
    found: dict[InputVariant, list[SearchOutputs]] = {variant: [] for variant in settings.input_variants}
    words = (
        LabelWords(model.taxonomy.vocabulary)
        if {*settings.input_variants} & {"stripped_title", "image_and_stripped_title"}
        else None
    )
    for start in range(0, len(chunk.rows), settings.batch_size):
        part = chunk.at(slice(start, start + settings.batch_size))
        stripped = [words.remove_from(title) for title in part.titles] if words else part.titles
        cells = encode(model.encoder, to_device(pixels[part.rows], device))
        for variant in settings.input_variants:
            titles = None if variant == "image" else stripped if "stripped" in variant else part.titles
            of = (cells if "image" in variant else None, titles)
            evidence, uncalibrated = (model.evidence(*of, calibrated=each) for each in (True, False))
            searched = _searched(model, settings, evidence, uncalibrated, part)
            found[variant].append(replace(searched, embeddings=pooled_cells(cells)) if variant == "image" else searched)
    return {variant: concatenate_searches(parts) for variant, parts in found.items()}


def pooled_cells(cells: Float[Tensor, "b cells d"]) -> Float[np.ndarray, "b e"]:
    """The mean of the cells of each image, in single precision. More than `EMBEDDING_SIZE` dimensions are projected.

    The projection is random, which keeps distances (Johnson-Lindenstrauss), and the same for all images.
    """
    points = cells.float().mean(dim=1).cpu().numpy()
    if points.shape[1] <= EMBEDDING_SIZE:
        return points
    directions = np.random.default_rng(0).standard_normal((points.shape[1], EMBEDDING_SIZE), dtype=np.float32)
    return np.asarray(points @ directions / np.float32(EMBEDDING_SIZE**0.5))


def _searched(
    model: Categorizer, settings: SearchSettings, evidence: ModelEvidence, uncalibrated: ModelEvidence, chunk: Chunk
) -> SearchOutputs:
    """Run all searches of a batch; ``chunk`` has its right paths and the rows that are searched exactly."""
    beam = partial(model.search_cells, beam=settings.beam, length_normalization=settings.length_normalization)
    exact = None
    if chunk.sample.any():
        chosen = evidence.at(torch.from_numpy(chunk.sample).to(evidence.cells.device))
        of_chosen = model.exact_cells(chosen, length_normalization=settings.length_normalization)
        exact = ExactResult.of(*of_chosen, chunk.actual[chunk.sample], model.taxonomy)
    return SearchOutputs(
        BestPaths.of(beam(evidence)),
        BestPaths.of(beam(uncalibrated)),
        # With probabilities over children, training never ruled out tokens outside the taxonomy.
        BestPaths.of(beam(evidence, constrained=False)) if model.architecture.normalize == "vocabulary" else None,
        exact,
    )


def concatenate_searches(parts: Sequence[SearchOutputs]) -> SearchOutputs:
    """Concatenate the results of ``parts``."""
    free, exact = ([found for part in parts if (found := getattr(part, name))] for name in ("free", "exact"))
    embeddings = [part.embeddings for part in parts if part.embeddings is not None]
    return SearchOutputs(
        concatenate([part.answers for part in parts]),
        concatenate([part.uncalibrated for part in parts]),
        concatenate(free) if free else None,
        concatenate(exact) if exact else None,
        np.concatenate(embeddings) if embeddings else None,
    )


def concatenate(parts: Sequence[Arrays]) -> Arrays:
    """Concatenate batches of arrays."""
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
