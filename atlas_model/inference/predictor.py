"""`Predictor`: category paths from images and titles with a saved model, for the command line and for services."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from atlas_model.confidence.calibration import descend
from atlas_model.confidence.products import ProductPool, ranked_paths
from atlas_model.confidence.risk_control import Thresholds
from atlas_model.core.device import choose_device
from atlas_model.core.errors import CheckpointError
from atlas_model.data.images import Preprocessing, to_array
from atlas_model.data.titles import Modality, rows_by_modality, split_words
from atlas_model.encoders.encoder import encode
from atlas_model.model.beam_search import SearchResult
from atlas_model.model.categorizer import Categorizer, reads_titles
from atlas_model.model.evidence import ModelEvidence
from atlas_model.model.saved_models import load_categorizer
from atlas_model.taxonomy.tree import SEPARATOR, START, CategoryPath, Taxonomy

if TYPE_CHECKING:
    from atlas_model.inference.engines import EngineName

BATCH = 64  # images per batch in `Predictor.predict`, to bound memory


# Use of a prediction, if an accuracy was requested: accept, a whole path with that accuracy; review, a prefix of a path
# with that accuracy, to be completed by a person; no_answer, no prediction reaches the accuracy.
Band = Literal["accept", "review", "no_answer"]
ConfidenceRule = float | Thresholds  # one minimum probability, or those of whole and of shorter paths
ConfidenceRules = Mapping[Modality, Thresholds]  # the thresholds for each modality


@dataclass(frozen=True)
class Prediction:
    """A category path, or its prefix down to the deepest confident level."""

    path: CategoryPath  # empty: no level is confident
    probability: float | None  # that it is right, range [0, 1]; None for an empty path
    levels: tuple[float, ...]  # for each name, that the right path goes through it; not increasing
    band: Band | None = None  # None if no accuracy was requested
    category_id: str | None = None  # of the predicted node; None if the taxonomy has no id for it


NOT_SURE = Prediction((), None, ())


@dataclass(frozen=True)
class ProductPrediction:
    """The prediction for a product from all its images."""

    predictions: list[Prediction]  # best first
    images: int  # number of images
    disagree: bool  # as in `products.ProductPool`; compares whole paths, whatever the predictions' depth


@dataclass(frozen=True)
class RowOptions:
    """How one row of `Predictor.predict_mixed` is predicted; arguments as in `Predictor.predict_prepared`."""

    beam: int = 5
    top: int = 1
    min_confidence: ConfidenceRule | None = None
    distribution: bool = False  # whether the result is log p of every node of the trie, for a `products.ProductPool`


@dataclass(frozen=True)
class _Query:
    """Rows of one modality, which are predicted together."""

    modality: Modality
    rows: Int[np.ndarray, "n"]  # positions among all rows
    evidence: ModelEvidence


class Predictor:
    """A trained model for prediction."""

    def __init__(self, model: Categorizer, preprocessing: Preprocessing, device: torch.device) -> None:
        self._model, self._preprocessing, self.device = model, preprocessing, device

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy of the model."""
        return self._model.taxonomy

    @property
    def side(self) -> int:
        """Side of the model's square input, px."""
        return self._preprocessing.size

    @property
    def channels(self) -> int:
        """Channels of the model's input: 3 for RGB, 1 for grey."""
        return 3 if self._preprocessing.mode == "RGB" else 1

    @property
    def reads_titles(self) -> bool:
        """Whether the model can use titles."""
        return reads_titles(self._model)

    @property
    def nodes(self) -> int:
        """Number of nodes of the taxonomy's trie."""
        return len(self.taxonomy.trie.path)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Self:
        """Load the model in ``folder``.

        Raises:
            CheckpointError: the folder does not hold a model.
            InputError: the device is not available.
        """
        chosen = choose_device(device)
        return cls(*load_categorizer(folder, chosen), chosen)

    def accelerate(self, engine: "EngineName", cache: Path | None) -> str:
        """Run the encoder in ``engine``; see `engines.accelerate`."""
        from atlas_model.inference.engines import accelerate  # slow to import

        return accelerate(self._model, engine, pixels=(self.channels, self.side, self.side), cache=cache)

    def predict(
        self,
        images: Sequence[Image.Image],
        beam: int = 5,
        top: int = 1,
        min_confidence: ConfidenceRule | ConfidenceRules | None = None,
        titles: Sequence[str | None] | None = None,
    ) -> list[list[Prediction]]:
        """Predict decoded images (`images.decode`), best path first; arguments as in `predict_prepared`."""
        found = []
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            pixels = np.stack([self.prepare(image) for image in images[batch]])
            found += self.predict_prepared(pixels, beam, top, min_confidence, titles[batch] if titles else None)
        return found

    def read(self, data: bytes) -> Image.Image:
        """Decode ``data`` at the model's input size, for `predict` and `prepare`, which saves memory.

        Raises:
            ImageError: it cannot be decoded.
        """
        return self._preprocessing.read(data)

    def prepare(self, image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
        """Convert ``image`` to the model's input. Thread-safe."""
        return to_array(self._preprocessing.apply(image))

    def predict_prepared(
        self,
        pixels: UInt8[np.ndarray, "b c h w"] | None,
        beam: int = 5,
        top: int = 1,
        min_confidence: ConfidenceRule | ConfidenceRules | None = None,
        titles: Sequence[str | None] | None = None,
    ) -> list[list[Prediction]]:
        """Predict prepared images in one batch, best path first.

        Args:
            pixels: of at least one image; None: predict from titles alone.
            beam: width of the search.
            top: number of paths, or all if there are fewer.
            min_confidence: return one prediction instead: the names down to the deepest level with at least this
                probability (`calibration.deepest_confident`), or by `risk_control.Thresholds`, and then with a band.
                This uses exact search, whose time grows with the taxonomy, but not its memory. `ConfidenceRules` have
                thresholds for each modality.
            titles: of the images' products, for a model that can use them. An image whose title is None or has no word
                is predicted from the image alone.

        Raises:
            CheckpointError: the model returns NaN.
        """
        return self._predict(pixels, titles, beam, top, min_confidence, every_node=False)[0]

    def predict_with_distribution(
        self,
        pixels: UInt8[np.ndarray, "b c h w"] | None,
        beam: int = 5,
        top: int = 1,
        min_confidence: ConfidenceRule | ConfidenceRules | None = None,
        titles: Sequence[str | None] | None = None,
    ) -> tuple[list[list[Prediction]], Float[np.ndarray, "b nodes"]]:
        """As `predict_prepared`; also return log p of every node of the trie, for a `products.ProductPool`."""
        answers, log_p = self._predict(pixels, titles, beam, top, min_confidence, every_node=True)
        assert log_p is not None
        return answers, log_p

    def predict_mixed(
        self,
        pixels: Sequence[UInt8[np.ndarray, "c h w"] | None],
        titles: Sequence[str | None],
        options: Sequence[RowOptions],
    ) -> "list[list[Prediction] | Float[np.ndarray, 'nodes']]":
        """Predict rows that have options of their own in one batch: the encoder runs once for all images.

        Args:
            pixels: of each prepared image; None: the row is predicted from its title alone, which must have a word.
            titles: as in `predict_prepared`.
            options: of each row.

        Returns:
            For each row its predictions, best first, or its distribution.

        Raises:
            CheckpointError: the model returns NaN.
        """
        groups: dict[tuple[Modality, RowOptions], list[int]] = {}
        for row, (image, title, chosen) in enumerate(zip(pixels, titles, options, strict=True)):
            groups.setdefault((modality_of(image is not None, title), chosen), []).append(row)
        images = [image for image in pixels if image is not None]
        place = np.cumsum([image is not None for image in pixels]) - 1  # of a row's image among all images
        found: list[list[Prediction] | Float[np.ndarray, "nodes"]] = [[]] * len(pixels)
        with torch.inference_mode():
            cells = encode(self._model.encoder, torch.from_numpy(np.stack(images)).to(self.device)) if images else None
            for (modality, chosen), rows in groups.items():
                row_cells = None if modality == "title" or cells is None else cells[place[rows].tolist()]
                row_titles = None if modality == "image" else [str(titles[row]) for row in rows]
                query = _Query(modality, np.array(rows), self._model.evidence(row_cells, row_titles))
                if chosen.distribution:
                    results: Sequence[Any] = list(self._exact(query).cpu().numpy())
                else:
                    log_p = None if chosen.min_confidence is None else self._exact(query)
                    results = self._predict_query(query, log_p, chosen.beam, chosen.top, chosen.min_confidence)
                for row, result in zip(rows, results, strict=True):
                    found[row] = result
        return found

    def distribution(
        self, pixels: UInt8[np.ndarray, "b c h w"], titles: Sequence[str | None] | None = None
    ) -> Float[np.ndarray, "b nodes"]:
        """Log p of every node of the taxonomy's trie for prepared images, for a `products.ProductPool`."""
        found = np.empty((len(pixels), self.nodes), dtype=np.float32)
        with torch.inference_mode():
            for query in self._queries(pixels, titles):
                found[query.rows] = self._exact(query).cpu().numpy()
        return found

    def pool(self) -> ProductPool:
        """An empty pool, to which the distributions of a product's images are added."""
        return ProductPool(self.taxonomy)

    def predict_product(
        self, pool: ProductPool, top: int = 1, min_confidence: ConfidenceRule | None = None
    ) -> ProductPrediction:
        """Predict a product by exact search; ``top`` and ``min_confidence`` as in `predict_prepared`."""
        log_p = pool.log_p
        if min_confidence is None:
            found = [self._whole(log_p, path) for path in ranked_paths(self.taxonomy, log_p, top).tolist()]
        else:
            found = list(self._confident(torch.from_numpy(log_p[None]), min_confidence))
        return ProductPrediction(found, pool.images, pool.disagree)

    def attention_overlay(self, image: Image.Image, answer: Prediction) -> Image.Image:
        """Draw the attention on the image for each level of a prediction."""
        from atlas_model.viz.attention import overlay  # matplotlib is slow to import

        attention = self.attention(self.prepare(image), answer.path)
        probability = "" if answer.probability is None else f"   ({answer.probability:.0%})"
        heading = (SEPARATOR.join(answer.path) or "not sure") + probability
        return overlay(self._preprocessing.apply(image), answer.path, attention, title=heading)

    def attention(self, pixels: UInt8[np.ndarray, "c h w"], path: CategoryPath) -> Float[np.ndarray, "steps cells"]:
        """The decoder's attention over a square grid of cells: a row for each name of ``path``, and one after it.

        Args:
            pixels: of a prepared image.
            path: of the taxonomy, or a prefix.
        """
        before = [START, *map(self.taxonomy.tokens.index, self.taxonomy.key_of(path))]
        with torch.inference_mode():
            cells = self._model.encoder(torch.from_numpy(np.stack([pixels])).to(self.device))
            _, attention = self._model.decoder(cells, torch.tensor([before], device=self.device))
        found: Float[np.ndarray, "steps cells"] = attention[0].cpu().numpy()
        return found

    def view(self, image: Image.Image, side: int) -> Image.Image:
        """What the model sees of ``image``, in RGB, at most ``side`` px long: its grid of cells covers all of it."""
        if self._preprocessing.resize != "squash":
            return replace(self._preprocessing, size=side, mode="RGB").apply(image)
        scale = side / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        return image.convert(self._preprocessing.mode).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)

    def _queries(
        self, pixels: UInt8[np.ndarray, "b c h w"] | None, titles: Sequence[str | None] | None
    ) -> Iterator[_Query]:
        """Yield the rows by modality, because each has its own thresholds."""
        if pixels is None:
            texts = [str(title) for title in titles or ()]
            assert texts and all(map(split_words, texts)), "a title alone has a word"
            yield _Query("title", np.arange(len(texts)), self._model.evidence(None, texts))
            return
        cells = encode(self._model.encoder, torch.from_numpy(pixels).to(self.device))
        for kind, rows in rows_by_modality(titles or [None] * len(pixels)):
            row_cells = cells if len(rows) == len(pixels) else cells[torch.from_numpy(rows).to(self.device)]
            row_titles = [str(titles[row]) for row in rows.tolist()] if kind == "image_and_title" and titles else None
            yield _Query(kind, rows, self._model.evidence(row_cells, row_titles))

    def _predict(
        self,
        pixels: UInt8[np.ndarray, "b c h w"] | None,
        titles: Sequence[str | None] | None,
        beam: int,
        top: int,
        min_confidence: ConfidenceRule | ConfidenceRules | None,
        *,
        every_node: bool,
    ) -> tuple[list[list[Prediction]], Float[np.ndarray, "b nodes"] | None]:
        """As `predict_prepared`; also log p of every node of the trie, if ``every_node``."""
        count = len(titles or ()) if pixels is None else len(pixels)
        found: list[list[Prediction]] = [[]] * count
        nodes = np.empty((count, self.nodes), dtype=np.float32) if every_node else None
        with torch.inference_mode():
            for query in self._queries(pixels, titles):
                rule = min_confidence[query.modality] if isinstance(min_confidence, Mapping) else min_confidence
                log_p = self._exact(query) if every_node or rule is not None else None
                if nodes is not None and log_p is not None:
                    nodes[query.rows] = log_p.cpu().numpy()
                for row, answers in zip(
                    query.rows.tolist(), self._predict_query(query, log_p, beam, top, rule), strict=True
                ):
                    found[row] = answers
        return found, nodes

    def _exact(self, query: _Query) -> Float[torch.Tensor, "n nodes"]:
        _, log_p = self._model.exact_cells(query.evidence)
        _check_probabilities(~log_p.isnan())
        return log_p

    def _predict_query(
        self,
        query: _Query,
        log_p: Float[torch.Tensor, "n nodes"] | None,
        beam: int,
        top: int,
        rule: ConfidenceRule | None,
    ) -> list[list[Prediction]]:
        if rule is None:
            top = min(top, len(self.taxonomy))
            return list(self._paths(self._model.search_cells(query.evidence, beam=max(beam, top), top=top)))
        assert log_p is not None
        return [[answer] for answer in self._confident(log_p, rule)]

    def _paths(self, found: SearchResult) -> Iterator[list[Prediction]]:
        _check_probabilities(found.path[:, 0] >= 0)
        columns = (
            each.tolist() for each in (found.path, found.log_probability.exp(), found.prefix_log_probability.exp())
        )
        for row in zip(*columns, strict=True):
            answers = []
            for index, probability, prefixes in zip(*row, strict=True):
                if index >= 0:
                    path = self._model.taxonomy.paths[index]
                    levels = tuple(prefixes[: len(path)])
                    answers.append(Prediction(path, probability, levels, category_id=self.taxonomy.id_of(path)))
            yield answers

    def _whole(self, log_p: Float[np.ndarray, "nodes"], path: int) -> Prediction:
        names, route = self.taxonomy.paths[path], self.taxonomy.trie.routes[path]
        levels = np.exp(log_p[route[1 : len(names) + 1]]).tolist()
        category_id = self.taxonomy.id_of(names)
        return Prediction(names, float(np.exp(log_p[route.max()])), tuple(levels), category_id=category_id)

    def _confident(self, log_p: Float[torch.Tensor, "b nodes"], min_confidence: ConfidenceRule) -> Iterator[Prediction]:
        descent = descend(self.taxonomy.trie, log_p)
        has_band = isinstance(min_confidence, Thresholds)
        least = min_confidence.of_levels if isinstance(min_confidence, Thresholds) else (min_confidence,)
        levels = descent.levels(*least)
        for row, level in enumerate(levels.tolist()):
            path, probabilities = descent.names(self.taxonomy, row, level), descent.probability[row].tolist()
            band: Band = "accept" if level == descent.depth[row] else "review" if level else "no_answer"
            answer = NOT_SURE
            if path:
                category_id, its_levels = self.taxonomy.id_of(path), tuple(probabilities[: len(path)])
                answer = Prediction(path, probabilities[level - 1], its_levels, category_id=category_id)
            yield replace(answer, band=band) if has_band else answer


def modality_of(has_image: bool, title: str | None) -> Modality:
    """What a row is predicted from, by a model that reads titles; a title without a word is ignored."""
    if not has_image:
        return "title"
    return "image_and_title" if title and split_words(title) else "image"


def _check_probabilities(sound: Bool[torch.Tensor, "..."]) -> None:
    if not sound.all():
        raise CheckpointError(
            "the model: expected probabilities, got NaN: its weights are damaged, or its training diverged. Train it "
            "again, or name another folder."
        )
