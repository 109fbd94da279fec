"""What an answer is made of: images, titles, or both, weighed against each other.

Image and title are read apart, and their logits are added up, each times a weight (a product of experts: Hinton 2002,
"Training products of experts by minimizing contrastive divergence"). The weights are fitted on validation, as a
temperature is. They cannot be learnt with the model: it knows its training images by heart, so beside them no title
would count. Titles with a label's word in them have weights of their own, for they tell the category by themselves.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

MAX_WEIGHT = 100.0  # weight that is read from a model's description


@dataclass(frozen=True)
class ModelEvidence:
    """Of each row, what the decoder attends to, and how its logits become those of the answer."""

    cells: Float[Tensor, "b cells d"]
    temperature: Float[Tensor, "b"]  # the decoder's logits are divided by it; infinite: the decoder says nothing
    bias: Float[Tensor, "b edges"] | None  # then added to the logits of the taxonomy's edges

    def __len__(self) -> int:
        return len(self.cells)

    def at(self, rows: Tensor) -> "ModelEvidence":
        """Some of the rows, by index or mask."""
        return ModelEvidence(self.cells[rows], self.temperature[rows], None if self.bias is None else self.bias[rows])


@dataclass(frozen=True)
class LogitWeights:
    """Of logits."""

    image: float = 1.0  # of an image, beside its title
    title: float = 1.0  # of the title, beside its image
    alone: float = 1.0  # of a title without an image


@dataclass(frozen=True)
class TitleWeights:
    """Of titles with a label's word in them, and of others."""

    named: LogitWeights = LogitWeights()
    other: LogitWeights = LogitWeights()

    def to_json(self) -> dict[str, Any]:
        """For a model's description."""
        return {kind.name: vars(getattr(self, kind.name)) for kind in fields(self)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Undo `to_json`.

        Raises:
            KeyError, TypeError, ValueError, AssertionError: it has another form.
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
