"""The two models that Atlas trains: the sequence model (encoder + attention decoder) and the plain classifier.

Each is built from a description of plain values, `Architecture`, that is saved beside its weights, and answers the
same three questions, which is all that training needs to know of it: its loss on a batch, its best path for a
picture, its parameter groups. Knows nothing of files of pictures or of how long to train.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from atlas_model.checkpoint import fill, load_model, save_model
from atlas_model.decoder import AttentionDecoder
from atlas_model.encoder import EncoderName, build_encoder
from atlas_model.errors import CheckpointError
from atlas_model.images import Mode, Preprocessing
from atlas_model.search import DeviceTrie, Found, beam_search, free_trie
from atlas_model.taxonomy import PAD, START, Taxonomy


@dataclass(frozen=True)
class Architecture:
    """What has to be known to build a model again; the paper's values in brackets."""

    encoder: EncoderName  # (resnet101)
    in_channels: int  # of the pictures
    grid: int | Literal["native"]  # (14)
    attention_size: int  # (512)
    embedding_size: int  # (512)
    hidden_size: int  # (512)
    dropout: float  # (.5)


class Categorizer(nn.Module):
    """The sequence model: writes the category path level by level.

    Args:
        architecture: sizes.
        taxonomy: the paths it may write.
        weights: for the encoder, see `build_encoder`.
        alpha_c: weight of the doubly stochastic attention term (Xu et al. 2015, 4.2.1).
        alpha_target: what the attention of a cell should sum to over the steps. "one" is the paper's; with few
            steps over many cells no attention comes near it, so the term is nearly constant, and "share"
            (steps / cells, which an even attention reaches) makes more sense.
    """

    kind = "categorizer"
    targets: Tensor

    def __init__(
        self,
        architecture: Architecture,
        taxonomy: Taxonomy,
        *,
        weights: str | None = None,
        alpha_c: float = 0.0,
        alpha_target: Literal["share", "one"] = "share",
    ) -> None:
        super().__init__()
        self.architecture, self.taxonomy = architecture, taxonomy
        self.alpha_c, self.alpha_target = alpha_c, alpha_target
        self.encoder = build_encoder(
            architecture.encoder, in_channels=architecture.in_channels, grid=architecture.grid, weights=weights
        )
        self.decoder = AttentionDecoder(
            len(taxonomy.tokens),
            cell_features=self.encoder.channels,
            attention_size=architecture.attention_size,
            embedding_size=architecture.embedding_size,
            hidden_size=architecture.hidden_size,
            dropout=architecture.dropout,
        )
        self.register_buffer("targets", torch.from_numpy(taxonomy.targets), persistent=False)
        self._tries: dict[tuple[bool, torch.device], DeviceTrie] = {}

    def loss(self, pictures: UInt8[Tensor, "b c h w"], paths: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """Cross-entropy of the next token (mean over tokens), plus the attention term."""
        targets = self.targets[paths]  # (b, t)
        tokens = torch.cat([torch.full_like(targets[:, :1], START), targets[:, :-1]], dim=1)
        logits, attention = self.decoder(self.encoder(pictures), tokens)
        loss: Tensor = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PAD)
        if not self.alpha_c:
            return loss
        looking = (targets != PAD).unsqueeze(-1)  # (b, t, 1)
        total = (attention * looking).sum(dim=1)  # (b, cells)
        target = looking.sum(dim=1) / total.shape[1] if self.alpha_target == "share" else 1.0
        attention_loss: Tensor = (target - total).square().mean()
        return loss + self.alpha_c * attention_loss

    def search(self, pictures: UInt8[Tensor, "b c h w"], *, beam: int, top: int = 1, constrained: bool = True) -> Found:
        """The best paths for each picture; unconstrained, any tokens until END, for comparison."""
        key = (constrained, pictures.device)
        if key not in self._tries:
            trie = self.taxonomy.trie if constrained else free_trie(len(self.taxonomy.tokens))
            self._tries[key] = DeviceTrie(trie, pictures.device)
        cells = self.encoder(pictures)
        return beam_search(self.decoder, cells, self._tries[key], beam=beam, top=top, max_steps=self.taxonomy.depth + 1)

    @torch.no_grad()
    def best_path(self, pictures: UInt8[Tensor, "b c h w"]) -> Int[Tensor, "b"]:
        """Index of the path that a beam of one finds: cheap, for model selection."""
        return self.search(pictures, beam=1).path[:, 0]

    def head(self) -> nn.Module:
        """What is trained beside the encoder."""
        return self.decoder


class Classifier(nn.Module):
    """The baseline: the same encoder, its cells averaged, one linear layer over all paths."""

    kind = "classifier"

    def __init__(self, architecture: Architecture, taxonomy: Taxonomy, *, weights: str | None = None) -> None:
        super().__init__()
        self.architecture, self.taxonomy = architecture, taxonomy
        self.encoder = build_encoder(
            architecture.encoder, in_channels=architecture.in_channels, grid=architecture.grid, weights=weights
        )
        self.dropout = nn.Dropout(architecture.dropout)
        self.output = nn.Linear(self.encoder.channels, len(taxonomy))

    def forward(self, pictures: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b paths"]:
        """Logits of the paths."""
        logits: Tensor = self.output(self.dropout(self.encoder(pictures).mean(dim=1)))
        return logits

    def loss(self, pictures: UInt8[Tensor, "b c h w"], paths: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self(pictures).float(), paths)

    @torch.no_grad()
    def best_path(self, pictures: UInt8[Tensor, "b c h w"]) -> Int[Tensor, "b"]:
        """Index of the most probable path."""
        best: Tensor = self(pictures).argmax(dim=1)
        return best

    def head(self) -> nn.Module:
        """What is trained beside the encoder."""
        return self.output


Model = Categorizer | Classifier


def save(
    model: Model, folder: Path, preprocessing: Preprocessing, *, params: dict[str, Any], metrics: dict[str, Any]
) -> None:
    """Write weights and description to ``folder``, whole or not at all.

    Args:
        model: what was trained.
        folder: replaced if it is there.
        preprocessing: of the pictures that it was trained on.
        params: how it was trained, for people; not needed to load it.
        metrics: what it reached, likewise.
    """
    description = {
        "kind": model.kind,
        "architecture": asdict(model.architecture),
        "taxonomy": model.taxonomy.to_json(),
        "preprocessing": preprocessing.to_json(),
        "params": params,
        "metrics": metrics,
    }
    save_model(folder, model.state_dict(), description)


def load_categorizer(folder: Path, device: torch.device) -> tuple[Categorizer, Preprocessing]:
    """The sequence model in ``folder``, in evaluation mode.

    Raises:
        CheckpointError: it is not one, or its weights do not fit its description.
    """
    model, preprocessing = _load(Categorizer, folder, device)
    assert isinstance(model, Categorizer)
    return model, preprocessing


def load_classifier(folder: Path, device: torch.device) -> tuple[Classifier, Preprocessing]:
    """The baseline in ``folder``, in evaluation mode; raises as `load_categorizer`."""
    model, preprocessing = _load(Classifier, folder, device)
    assert isinstance(model, Classifier)
    return model, preprocessing


def _load(
    model_class: type[Categorizer] | type[Classifier], folder: Path, device: torch.device
) -> tuple[Model, Preprocessing]:
    tensors, description = load_model(folder, model_class.kind)
    try:
        taxonomy = Taxonomy.from_json(description["taxonomy"], source=f"{folder}: taxonomy")
        model = model_class(Architecture(**description["architecture"]), taxonomy)
        preprocessing = Preprocessing(**description["preprocessing"])
        assert preprocessing.mode in get_args(Mode) and preprocessing.size > 0, preprocessing
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise CheckpointError(f"{folder}: its description is not one of a {model_class.kind}: {error}") from error
    fill(model, tensors, folder)
    return model.to(device).eval(), preprocessing
