"""The two models that Atlas trains: the sequence model (encoder + attention decoder) and the plain classifier.

Each is built from a description of plain values, `Architecture`, that is saved beside its weights, and answers the
same three questions, which is all that training needs to know of it: its loss on a batch, its best path for a
picture, its parameter groups. Knows nothing of files of pictures or of how long to train.

The sequence model may read the product's title as well. It then answers from image, title, or both.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from atlas_model.architecture import Architecture, check_architecture, check_images
from atlas_model.checkpoint import fill, load_model, save_model
from atlas_model.classifier import Classifier
from atlas_model.decoder import AttentionDecoder
from atlas_model.encoder import build_encoder
from atlas_model.errors import CheckpointError, InputError
from atlas_model.exact_search import exact_search
from atlas_model.images import Preprocessing
from atlas_model.path_head import PathHead
from atlas_model.search import DeviceTrie, Found, beam_search
from atlas_model.taxonomy import PAD, START, Taxonomy
from atlas_model.titles import Given, TitleEncoder


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
        label_smoothing: share of the probability that the loss asks for evenly of all candidates of a step, rather
            than of the right one (Szegedy et al. 2016, arXiv 1512.00567).
        priors: how often each path stands in training, to the power of `train.balance`; None leaves frequencies as
            they are. The loss adds the logarithm of a candidate's prior to its logit, so that the logits themselves,
            which prediction takes, favour frequent categories less (Menon et al. 2021, "Long-tail learning via logit
            adjustment", arXiv 2007.07314, eq. 10). Only for probabilities over children.
    """

    kind = "categorizer"
    temperature: float  # that logits are divided by in prediction, for honest probabilities; training knows none
    title_temperatures: dict[Given, float]  # the same where a title is given
    targets: Tensor
    routes: Tensor
    counted: Tensor
    log_priors: Tensor | None

    def __init__(
        self,
        architecture: Architecture,
        taxonomy: Taxonomy,
        *,
        weights: str | None = None,
        alpha_c: float = 0.0,
        alpha_target: Literal["share", "one"] = "share",
        label_smoothing: float = 0.0,
        priors: Float[np.ndarray, "paths"] | None = None,
    ) -> None:
        super().__init__()
        assert priors is None or architecture.normalize == "children"
        self.architecture, self.taxonomy = architecture, taxonomy
        self.alpha_c, self.alpha_target, self.label_smoothing = alpha_c, alpha_target, label_smoothing
        self.temperature, self.title_temperatures = 1.0, {}
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
            deep_output=architecture.deep_output,
            feature_dropout=architecture.feature_dropout,
        )
        self.path_head = (
            PathHead(self.encoder.channels, taxonomy.trie, architecture.dropout) if architecture.path_head else None
        )
        self.titles: TitleEncoder | None = None
        if architecture.title != "none":
            self.titles = TitleEncoder(architecture.title_buckets, architecture.title_size, self.encoder.channels)
            self.title_temperatures = {"title": 1.0, "image_and_title": 1.0}
        self._tries: dict[tuple[bool, torch.device], DeviceTrie] = {}
        self.register_buffer("targets", torch.from_numpy(taxonomy.targets), persistent=False)
        self.register_buffer("routes", torch.from_numpy(taxonomy.trie.routes), persistent=False)
        self.register_buffer("counted", self._counted(), persistent=False)  # tokens of each path, in the loss's mean
        # Of each edge, None: all 0. What a node's children have in common changes nothing.
        log_priors = None if priors is None else torch.from_numpy(np.log(taxonomy.trie.mass(priors)[1:])).float()
        self.register_buffer("log_priors", log_priors, persistent=False)

    def loss(self, pictures: UInt8[Tensor, "b c h w"], paths: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """See `loss_of_cells`."""
        return self.loss_of_cells(self.encoder(pictures), paths, paths)

    def given(
        self, cells: Float[Tensor, "b cells d"] | None, titles: Sequence[str] | None
    ) -> Float[Tensor, "b memory d"]:
        """What the decoder attends to, given images, titles, or both; see `titles.TitleEncoder.add`."""
        if self.titles is not None:
            return self.titles.add(cells, titles)
        assert cells is not None and titles is None, "this model reads no titles"
        return cells

    def loss_of_cells(
        self,
        cells: Float[Tensor, "b cells d"],
        paths: Int[Tensor, "b"],
        of: Int[Tensor, "m"],
        titles: Sequence[str] | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the next token (mean over tokens), plus the attention term.

        Normalised over children, tokens that had no alternative cost nothing and do not count in the mean. With titles
        it is the sum of three losses: given the image alone, both, and the title alone. They need the encoder once, and
        the first is what it is without titles, so that as much is learnt from images alone.

        Args:
            cells: the encoder's output.
            paths: the right ones.
            of: the right paths of all pictures that the means are over. Where these are a part of them, what comes
                back is their part of the sum, so that the losses of all parts add up to that of the whole.
            titles: of the images.
        """
        if titles is None:
            return self._loss_of(cells, paths, of)
        with_image = torch.cat([cells, self.given(cells, titles)])  # (2 b, cells, d)
        return self._loss_of(with_image, paths.repeat(2), of) + self._loss_of(self.given(None, titles), paths, of)

    def _loss_of(
        self, cells: Float[Tensor, "b cells d"], paths: Int[Tensor, "b"], of: Int[Tensor, "m"]
    ) -> Float[Tensor, ""]:
        if self.architecture.normalize == "children":
            loss, attention, looking = self._children_loss(cells, paths)
        else:
            loss, attention, looking = self._vocabulary_loss(cells, paths)
        loss = loss / self.counted[of].sum().clamp(min=1)
        if not self.alpha_c:
            return loss
        total = (attention * looking.unsqueeze(-1)).sum(dim=1)  # (b, cells)
        target = looking.sum(dim=1, keepdim=True) / total.shape[1] if self.alpha_target == "share" else 1.0
        attention_loss: Tensor = (target - total).square().mean(dim=1).sum() / len(of)
        return loss + self.alpha_c * attention_loss

    def search(
        self,
        pictures: UInt8[Tensor, "b c h w"],
        *,
        beam: int,
        top: int = 1,
        constrained: bool = True,
        length_normalization: float = 0.0,
    ) -> Found:
        """See `search_cells`."""
        return self.search_cells(
            self.encoder(pictures),
            beam=beam,
            top=top,
            constrained=constrained,
            length_normalization=length_normalization,
        )

    def search_cells(
        self,
        cells: Float[Tensor, "b cells d"],
        *,
        beam: int,
        top: int = 1,
        constrained: bool = True,
        length_normalization: float = 0.0,
        given: Given = "image",
    ) -> Found:
        """The best paths for each picture; unconstrained, any tokens until END, for comparison.

        A model that is normalised over children has not learnt what no taxonomy allows: free, it writes anything.
        ``given`` says what ``cells`` are made of, as in the next method.
        """
        return beam_search(
            self.decoder,
            cells,
            self._trie(cells.device, constrained=constrained),
            beam=beam,
            top=top,
            normalize=self.architecture.normalize if constrained else "vocabulary",
            temperature=self.temperature_of(given),
            length_normalization=length_normalization,
            bias=self.bias(cells) if constrained else None,
        )

    def temperature_of(self, given: Given) -> float:
        """The temperature for answers from what is ``given``."""
        return self.temperature if given == "image" else self.title_temperatures[given]

    def bias(self, cells: Float[Tensor, "b cells d"]) -> Float[Tensor, "b edges"] | None:
        """What is added to the logits of the taxonomy's edges; None: nothing."""
        return None if self.path_head is None else self.path_head(cells)

    def exact(
        self, pictures: UInt8[Tensor, "b c h w"], *, top: int = 1, length_normalization: float = 0.0
    ) -> tuple[Found, Float[Tensor, "b nodes"]]:
        """See `exact_cells`."""
        return self.exact_cells(self.encoder(pictures), top=top, length_normalization=length_normalization)

    def exact_cells(
        self,
        cells: Float[Tensor, "b cells d"],
        *,
        top: int = 1,
        length_normalization: float = 0.0,
        given: Given = "image",
    ) -> tuple[Found, Float[Tensor, "b nodes"]]:
        """The best of all paths for each image, and log p of every node of the taxonomy's trie."""
        return exact_search(
            self.decoder,
            cells,
            self._trie(cells.device, constrained=True),
            top=top,
            normalize=self.architecture.normalize,
            temperature=self.temperature_of(given),
            length_normalization=length_normalization,
            bias=self.bias(cells),
        )

    @torch.no_grad()
    def best_path(self, pictures: UInt8[Tensor, "b c h w"]) -> Int[Tensor, "b"]:
        """See `best_path_of_cells`."""
        return self.best_path_of_cells(self.encoder(pictures))

    @torch.no_grad()
    def best_path_of_cells(self, cells: Float[Tensor, "b cells d"]) -> Int[Tensor, "b"]:
        """Index of the path that a beam of one finds: cheap, for model selection."""
        return self.search_cells(cells, beam=1).path[:, 0]

    def head(self) -> nn.Module:
        """What is trained beside the encoder."""
        parts = [part for part in (self.decoder, self.path_head, self.titles) if part is not None]
        return parts[0] if len(parts) == 1 else nn.ModuleList(parts)

    def _vocabulary_loss(
        self, cells: Float[Tensor, "b cells d"], paths: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b t cells"], Bool[Tensor, "b t"]]:
        """Loss, summed over tokens; attention of each step; which steps the path has."""
        targets = self.targets[paths]  # (b, t)
        readout, attention = self.decoder(cells, _inputs(targets))
        logits = self.decoder.logits(readout)  # (b, t, v): one product for all steps
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=PAD,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return loss, attention, targets != PAD

    def _children_loss(
        self, cells: Float[Tensor, "b cells d"], paths: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b t cells"], Bool[Tensor, "b t"]]:
        """As `_vocabulary_loss`; without the END of leaves, so with a step less."""
        routes, trie = self.routes[paths], self._trie(cells.device, constrained=True)
        node, child = routes[:, :-1], routes[:, 1:]  # (b, t)
        readout, attention = self.decoder(cells, _inputs(self.targets[paths][:, :-1]))
        writing = child >= 0
        choosing = writing & (trie.first[node + 1] - trie.first[node] > 1)
        node, child = node[choosing], child[choosing]  # (n,)
        edge, valid = trie.edges(node, max(trie.fan_out))  # (n, f)
        (logits,) = self.decoder.logits_of(readout[choosing][None], trie.token[edge], valid)  # (n, f)
        if self.path_head is not None:
            row, _ = choosing.nonzero(as_tuple=True)
            logits = logits + self.path_head(cells)[row].gather(1, edge)
        if self.log_priors is not None:
            logits = logits + self.log_priors[edge]
        right = child - 1 - trie.first[node]  # which of its node's edges leads to the child
        loss = nn.functional.cross_entropy(logits.float(), right, reduction="sum")
        if self.label_smoothing:  # torch's own would spread over places that are no candidates, too
            log_p = logits.float().log_softmax(dim=1).masked_fill(~valid, 0)
            even = -(log_p.sum(dim=1) / valid.sum(dim=1)).sum()
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * even
        return loss, attention, writing

    def _counted(self) -> Int[Tensor, "paths"]:
        if self.architecture.normalize == "vocabulary":
            return (self.targets != PAD).sum(dim=1)
        trie = self._trie(self.routes.device, constrained=True)
        node, child = self.routes[:, :-1], self.routes[:, 1:]  # (paths, t)
        return ((child >= 0) & (trie.first[node + 1] - trie.first[node] > 1)).sum(dim=1)

    def _trie(self, device: torch.device, *, constrained: bool) -> DeviceTrie:
        if (constrained, device) not in self._tries:
            taxonomy = self.taxonomy
            self._tries[constrained, device] = (
                DeviceTrie.of(taxonomy.trie, device)
                if constrained
                else DeviceTrie.free(len(taxonomy.tokens), taxonomy.depth + 1, device)
            )
        return self._tries[constrained, device]


Model = Categorizer | Classifier


def reads_titles(model: Model) -> bool:
    """Whether ``model`` answers from titles, too."""
    return isinstance(model, Categorizer) and model.titles is not None


def _inputs(targets: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """What stands before each of ``targets``."""
    return torch.cat([torch.full_like(targets[:, :1], START), targets[:, :-1]], dim=1)


def save(
    model: Model,
    folder: Path,
    preprocessing: Preprocessing,
    *,
    params: dict[str, Any],
    metrics: dict[str, Any],
    guarantees: dict[str, Any] | None = None,
) -> None:
    """Write weights and description to ``folder``, whole or not at all.

    Args:
        model: what was trained.
        folder: replaced if it is there.
        preprocessing: of the pictures that it was trained on.
        params: how it was trained, for people; not needed to load it.
        metrics: what it reached, likewise.
        guarantees: which accuracies it can promise, as of `guarantees.Guarantees`; None where nobody has looked.
    """
    description = {
        "kind": model.kind,
        "architecture": asdict(model.architecture),
        "taxonomy": model.taxonomy.to_json(),
        "temperature": model.temperature,
        "preprocessing": preprocessing.to_json(),
        "params": params,
        "metrics": metrics,
        **({} if guarantees is None else {"guarantees": guarantees}),
    }
    if isinstance(model, Categorizer) and model.title_temperatures:
        description["title_temperatures"] = model.title_temperatures
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
        architecture = Architecture(**description["architecture"])
        check_architecture(architecture)
        model = model_class(architecture, taxonomy)
        model.temperature = _temperature(description.get("temperature", 1.0))
        if isinstance(model, Categorizer):
            found = description["title_temperatures"] if model.title_temperatures else {}
            model.title_temperatures = {given: _temperature(found[given]) for given in model.title_temperatures}
        preprocessing = Preprocessing(**description["preprocessing"])
        check_images(architecture, preprocessing, model.encoder.in_channels)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError, InputError) as error:
        raise CheckpointError(f"{folder}: its description is not one of a {model_class.kind}: {error}") from error
    fill(model, tensors, folder)
    return model.to(device).eval(), preprocessing


def _temperature(value: Any) -> float:
    temperature = float(value)
    assert 0 < temperature < float("inf"), temperature
    return temperature
