"""Combines the logits of images and titles into the input of a search.

Image and title have separate logits, and their weighted sum is used (a product of experts: Hinton 2002, "Training
products of experts by minimizing contrastive divergence"). The weights are fitted on validation, like a temperature.
They cannot be trained with the model: it overfits its training images, so that titles would get no weight. Titles with
a label's word have weights of their own, because they determine the category by themselves.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

MAX_WEIGHT = 100.0  # limit for weights in a model's description


@dataclass(frozen=True)
class ModelEvidence:
    """Input of a search: for each row, the decoder's cells, and the temperature and bias of its logits."""

    cells: Float[Tensor, "b cells d"]
    temperature: Float[Tensor, "b"]  # the decoder's logits are divided by it; infinite: they have no effect
    bias: Float[Tensor, "b edges"] | None  # added to the logits of the taxonomy's edges after that

    def __len__(self) -> int:
        return len(self.cells)

    def at(self, rows: Tensor) -> "ModelEvidence":
        """Select rows, by index or mask."""
        return ModelEvidence(self.cells[rows], self.temperature[rows], None if self.bias is None else self.bias[rows])


@dataclass(frozen=True)
class LogitWeights:
    """Weights of logits."""

    image: float = 1.0  # of an image, beside its title
    title: float = 1.0  # of the title, beside its image
    alone: float = 1.0  # of a title without an image


@dataclass(frozen=True)
class TitleWeights:
    """Weights for titles with a label's word, and for other titles."""

    named: LogitWeights = LogitWeights()
    other: LogitWeights = LogitWeights()

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {kind.name: vars(getattr(self, kind.name)) for kind in fields(self)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError, AssertionError: the value has another form.
        """
        kinds = {
            kind.name: LogitWeights(
                **{field.name: float(value[kind.name][field.name]) for field in fields(LogitWeights)}
            )
            for kind in fields(cls)
        }
        for weights in kinds.values():
            assert all(0 <= weight <= MAX_WEIGHT for weight in vars(weights).values()), weights
            assert weights.alone > 0, weights
        return cls(**kinds)
