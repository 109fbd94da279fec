"""Pictures to category paths with a model folder: what the command line and a service are made of.

Knows nothing of where pictures come from or where answers go.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image

from atlas_model.calibration import deepest_confident, descend
from atlas_model.categorizer import Categorizer, load_categorizer
from atlas_model.device import choose_device
from atlas_model.errors import CheckpointError
from atlas_model.images import Preprocessing, to_array
from atlas_model.search import Found
from atlas_model.taxonomy import SEPARATOR, START, CategoryPath

if TYPE_CHECKING:
    from atlas_model.engines import EngineName

BATCH = 64  # pictures at once, so that a folder of any size fits


@dataclass(frozen=True)
class Prediction:
    """A category path, or its beginning down to the deepest level that the model is sure of."""

    path: CategoryPath  # no names: not sure of any
    probability: float | None  # that it is right, range [0, 1]; None where there is nothing to be right
    levels: tuple[float, ...]  # for each name, that the right path leads through it: never rising


NOT_SURE = Prediction((), None, ())


class Predictor:
    """A trained model, ready to answer."""

    def __init__(self, model: Categorizer, preprocessing: Preprocessing, device: torch.device) -> None:
        self._model, self._preprocessing, self.device = model, preprocessing, device

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Self:
        """The model in ``folder``.

        Raises:
            CheckpointError: there is none.
            InputError: no such device.
        """
        chosen = choose_device(device)
        return cls(*load_categorizer(folder, chosen), chosen)

    def accelerate(self, engine: "EngineName", cache: Path | None) -> str:
        """Answer with ``engine`` from now on; see `engines.accelerate`."""
        from atlas_model.engines import accelerate  # for a few pictures it is not worth its import

        channels = 3 if self._preprocessing.mode == "RGB" else 1
        pixels = (channels, self._preprocessing.size, self._preprocessing.size)
        return accelerate(self._model, engine, pixels=pixels, cache=cache)

    def predict(
        self, pictures: Sequence[Image.Image], beam: int = 5, top: int = 1, min_confidence: float | None = None
    ) -> list[list[Prediction]]:
        """The answers of each picture (as `images.decode` gives it), best first; arguments as of `answer`."""
        found = []
        for start in range(0, len(pictures), BATCH):
            pixels = np.stack([self.prepare(picture) for picture in pictures[start : start + BATCH]])
            found += self.answer(pixels, beam, top, min_confidence)
        return found

    def prepare(self, picture: Image.Image) -> UInt8[np.ndarray, "c h w"]:
        """What the model sees of ``picture``. Any thread may ask."""
        return to_array(self._preprocessing.apply(picture))

    def answer(
        self, pixels: UInt8[np.ndarray, "b c h w"], beam: int = 5, top: int = 1, min_confidence: float | None = None
    ) -> list[list[Prediction]]:
        """The answers of prepared pictures, all at once.

        Args:
            pixels: of at least one picture.
            beam: width of the search.
            top: so many of the most probable paths, best first; all, where there are fewer.
            min_confidence: one answer instead: the names down to the deepest level that is at least so probable
                (`calibration.deepest_confident`). This asks for every node of the taxonomy, so it takes the longer
                the larger that is, but no more memory (`exact_search` splits its work).

        Raises:
            CheckpointError: the model's weights give no probabilities.
        """
        pictures = torch.from_numpy(pixels).to(self.device)
        top = min(top, len(self._model.taxonomy))
        with torch.inference_mode():
            if min_confidence is None:
                return list(self._paths(self._model.search(pictures, beam=max(beam, top), top=top)))
            return [[answer] for answer in self._sure(pictures, min_confidence)]

    def attention_overlay(self, picture: Image.Image, answer: Prediction) -> Image.Image:
        """A strip that shows where the model looked for each level of its ``answer``, and no further."""
        from atlas_model.attention import overlay  # matplotlib is slow to import

        pixels = torch.from_numpy(np.stack([self.prepare(picture)])).to(self.device)
        before = [START, *map(self._model.taxonomy.tokens.index, answer.path)]
        with torch.inference_mode():
            _, attention = self._model.decoder(self._model.encoder(pixels), torch.tensor([before], device=self.device))
        probability = "" if answer.probability is None else f"   ({answer.probability:.0%})"
        title = (SEPARATOR.join(answer.path) or "not sure") + probability
        return overlay(self._preprocessing.apply(picture), answer.path, attention[0].cpu().numpy(), title=title)

    def _paths(self, found: Found) -> Iterator[list[Prediction]]:
        _check_probabilities(found.path[:, 0] >= 0)
        columns = (found.path.tolist(), found.log_probability.exp().tolist(), found.reached.exp().tolist())
        for row in zip(*columns, strict=True):
            answers = []
            for index, probability, reached in zip(*row, strict=True):
                if index >= 0:
                    path = self._model.taxonomy.paths[index]
                    answers.append(Prediction(path, probability, tuple(reached[: len(path)])))
            yield answers

    def _sure(self, pictures: UInt8[torch.Tensor, "b c h w"], min_confidence: float) -> Iterator[Prediction]:
        taxonomy = self._model.taxonomy
        _, log_p = self._model.exact(pictures)
        _check_probabilities(~log_p.isnan())
        levels = descend(taxonomy.trie, log_p).probability.tolist()
        for (path, probability), row in zip(deepest_confident(taxonomy, log_p, min_confidence), levels, strict=True):
            yield Prediction(path, probability, tuple(row[: len(path)])) if path else NOT_SURE


def _check_probabilities(sound: Bool[torch.Tensor, "..."]) -> None:
    if not sound.all():
        raise CheckpointError(
            "the model: expected probabilities, got none: its weights are damaged, or grew beyond all numbers in "
            "training. Train it again, or name another folder."
        )
