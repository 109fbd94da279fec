"""The categorizer, which predicts category paths: an encoder and an attention decoder.

It is built from an `Architecture`, which is saved beside its weights. It shares an interface with the baseline
(`classifier`), which is all that training uses: the loss on a batch, the best path of an image, and the head.

It may contain two classifiers (`path_head`, `titles`), whose logits are added to the decoder's. Each has a loss of its
own: trained on the sum of the logits alone, the parts would come to depend on each other.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from atlas_model.data.titles import TitleHead, split_words
from atlas_model.encoders.encoder import build_encoder
from atlas_model.model.architecture import Architecture
from atlas_model.model.beam_search import DeviceTrie, SearchResult, beam_search
from atlas_model.model.classifier import Classifier
from atlas_model.model.decoder import AttentionDecoder
from atlas_model.model.evidence import LogitWeights, ModelEvidence, TitleWeights
from atlas_model.model.exact_search import exact_search
from atlas_model.model.path_head import PathEdges, PathHead
from atlas_model.taxonomy.tree import PAD, START, Taxonomy


class Categorizer(nn.Module):
    """The sequence model: predicts the category path level by level.

    Args:
        architecture: sizes.
        taxonomy: the paths that it can predict.
        weights: of the encoder, see `build_encoder`.
        alpha_c: weight of the doubly stochastic attention term (Xu et al. 2015, 4.2.1).
        alpha_target: target of a cell's attention, summed over the steps. "one" is the paper's. With few steps and
            many cells it is out of reach, which makes the term nearly constant; "share" is steps / cells, which uniform
            attention reaches.
        label_smoothing: share of the target probability that is spread evenly over all candidates of a step (Szegedy
            et al. 2016, arXiv 1512.00567).
        priors: frequency of each path in training, to the power of `train.balance`; None: no adjustment. The loss adds
            the logarithm of a candidate's prior to its logit, so that the logits, which prediction uses, favour
            frequent categories less (Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv 2007.07314,
            eq. 10). Only for probabilities over children.
    """

    kind = "categorizer"
    temperature: float  # in prediction logits are divided by it, for calibrated probabilities; not used in training
    title_weights: TitleWeights  # of the logits of images and titles
    targets: Tensor
    routes: Tensor
    counted: Tensor
    log_priors: Tensor | None  # of each path
    edge_log_priors: Tensor | None  # of each edge of the tree

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
        assert architecture.normalize == "children" or (priors is None and architecture.title == "none")
        self.architecture, self.taxonomy = architecture, taxonomy
        self.alpha_c, self.alpha_target, self.label_smoothing = alpha_c, alpha_target, label_smoothing
        self.temperature, self.title_weights = 1.0, TitleWeights()
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
        self.title_head: TitleHead | None = None
        if architecture.title != "none":
            self.title_head = TitleHead(
                architecture.title_buckets,
                architecture.title_size,
                taxonomy.vocabulary,
                len(taxonomy),
                architecture.dropout,
            )
            self.edges = PathEdges(taxonomy.trie)
        self._tries: dict[tuple[bool, torch.device], DeviceTrie] = {}
        self.register_buffer("targets", torch.from_numpy(taxonomy.targets), persistent=False)
        self.register_buffer("routes", torch.from_numpy(taxonomy.trie.routes), persistent=False)
        self.register_buffer("counted", self._counted(), persistent=False)  # tokens of each path in the mean
        # None: all 0. A constant added for all children of a node has no effect.
        log_priors = edge_log_priors = None
        if priors is not None:
            log_priors, edge_log_priors = (
                torch.from_numpy(np.log(each)).float() for each in (priors, taxonomy.trie.mass(priors)[1:])
            )
        self.register_buffer("log_priors", log_priors, persistent=False)
        self.register_buffer("edge_log_priors", edge_log_priors, persistent=False)

    def loss(self, images: UInt8[Tensor, "b c h w"], paths: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """See `loss_of_cells`."""
        return self.loss_of_cells(self.encoder(images), paths, paths)

    def loss_of_cells(
        self,
        cells: Float[Tensor, "b cells d"],
        paths: Int[Tensor, "b"],
        of: Int[Tensor, "m"],
        titles: Sequence[str] | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the next token (mean over tokens), plus the attention term.

        With probabilities over children, tokens without an alternative have no loss and are not in the mean. The
        cross-entropy of each inner classifier over the paths (mean over images) is added.

        Args:
            cells: the encoder's output.
            paths: the right ones.
            of: the right paths of all images that the means are over. If ``paths`` is a part of them, the result is
                its part of the sum: the losses of all parts add up to the loss of the whole.
            titles: of the images.
        """
        loss = self._decoder_loss(cells, paths, of)
        if self.path_head is not None:
            loss = loss + self._path_loss(self.path_head.scores(cells), paths) / len(of)
        if self.title_head is not None and titles is not None:
            loss = loss + self._path_loss(self.title_head(titles), paths) / len(of)
        return loss

    def _path_loss(self, scores: Float[Tensor, "b paths"], paths: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """Cross-entropy over the paths, summed over the rows."""
        if self.log_priors is not None:
            scores = scores + self.log_priors
        loss: Tensor = nn.functional.cross_entropy(scores, paths, reduction="sum", label_smoothing=self.label_smoothing)
        return loss

    def _decoder_loss(
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
        images: UInt8[Tensor, "b c h w"],
        *,
        beam: int,
        top: int = 1,
        constrained: bool = True,
        length_normalization: float = 0.0,
    ) -> SearchResult:
        """See `search_cells`."""
        return self.search_cells(
            self.encoder(images),
            beam=beam,
            top=top,
            constrained=constrained,
            length_normalization=length_normalization,
        )

    def search_cells(
        self,
        cells: Float[Tensor, "b cells d"] | ModelEvidence,
        *,
        beam: int,
        top: int = 1,
        constrained: bool = True,
        length_normalization: float = 0.0,
    ) -> SearchResult:
        """Beam search for each image, or other evidence; unconstrained: any tokens until END, for comparison.

        With probabilities over children, unconstrained search is meaningless: training never ruled out other tokens.
        """
        evidence = cells if isinstance(cells, ModelEvidence) else self.evidence(cells)
        return beam_search(
            self.decoder,
            evidence.cells,
            self._trie(evidence.cells.device, constrained=constrained),
            beam=beam,
            top=top,
            normalize=self.architecture.normalize if constrained else "vocabulary",
            temperature=evidence.temperature,
            length_normalization=length_normalization,
            bias=evidence.bias if constrained else None,
        )

    def evidence(
        self,
        cells: Float[Tensor, "b cells d"] | None,
        titles: Sequence[str] | None = None,
        *,
        calibrated: bool = True,
    ) -> ModelEvidence:
        """The input of a search, from images, titles, or both.

        Args:
            cells: of images; None: titles alone.
            titles: one for each image; None: images alone. A title without a word is ignored.
            calibrated: whether to apply the temperature and the title weights.
        """
        if titles is None:
            assert cells is not None, "an image or a title"
            temperature = cells.new_full((len(cells),), self.temperature if calibrated else 1.0)
            bias = None if self.path_head is None else self.path_head(cells) / temperature.unsqueeze(1)
            return ModelEvidence(cells, temperature, bias)
        assert self.title_head is not None, "this model reads no titles"
        kinds = [self._weights(title, calibrated=calibrated) for title in titles]
        device = self.title_head.output.weight.device
        image, title, alone = (
            torch.tensor([getattr(kind, name) for kind in kinds], device=device).unsqueeze(1)
            for name in ("image", "title", "alone")
        )  # (b, 1)
        scores = self.title_head(titles)  # (b, paths)
        if cells is None:
            nothing = scores.new_zeros(len(titles), 1, self.encoder.channels)
            return ModelEvidence(nothing, scores.new_full((len(titles),), torch.inf), self.edges(scores * alone))
        worded = torch.tensor([bool(split_words(title)) for title in titles], device=device).unsqueeze(1)
        bias = torch.where(worded, self.edges(scores * title), 0)  # no word: else nodes with many paths gain
        if self.path_head is not None:
            bias = bias + self.path_head(cells) * image
        return ModelEvidence(cells, 1 / image.squeeze(1), bias)

    def _weights(self, title: str, *, calibrated: bool) -> LogitWeights:
        assert self.title_head is not None
        if not split_words(title):
            return LogitWeights(image=1 / self.temperature if calibrated else 1.0)
        if not calibrated:
            return LogitWeights()
        weights = self.title_weights
        return weights.named if self.title_head.words.occur_in(title) else weights.other

    def exact(
        self, images: UInt8[Tensor, "b c h w"], *, top: int = 1, length_normalization: float = 0.0
    ) -> tuple[SearchResult, Float[Tensor, "b nodes"]]:
        """See `exact_cells`."""
        return self.exact_cells(self.encoder(images), top=top, length_normalization=length_normalization)

    def exact_cells(
        self,
        cells: Float[Tensor, "b cells d"] | ModelEvidence,
        *,
        top: int = 1,
        length_normalization: float = 0.0,
    ) -> tuple[SearchResult, Float[Tensor, "b nodes"]]:
        """Exact search for each image, or other evidence; also returns log p of every node of the taxonomy's trie."""
        evidence = cells if isinstance(cells, ModelEvidence) else self.evidence(cells)
        return exact_search(
            self.decoder,
            evidence.cells,
            self._trie(evidence.cells.device, constrained=True),
            top=top,
            normalize=self.architecture.normalize,
            temperature=evidence.temperature,
            length_normalization=length_normalization,
            bias=evidence.bias,
        )

    @torch.no_grad()
    def best_path(self, images: UInt8[Tensor, "b c h w"]) -> Int[Tensor, "b"]:
        """See `best_path_of_cells`."""
        return self.best_path_of_cells(self.encoder(images))

    @torch.no_grad()
    def best_path_of_cells(self, cells: Float[Tensor, "b cells d"] | ModelEvidence) -> Int[Tensor, "b"]:
        """Index of the path that a beam of one finds, which is fast enough for model selection."""
        return self.search_cells(cells, beam=1).path[:, 0]

    def head(self) -> nn.Module:
        """The trained modules other than the encoder."""
        parts = [part for part in (self.decoder, self.path_head, self.title_head) if part is not None]
        return parts[0] if len(parts) == 1 else nn.ModuleList(parts)

    def _vocabulary_loss(
        self, cells: Float[Tensor, "b cells d"], paths: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b t cells"], Bool[Tensor, "b t"]]:
        """Loss, summed over tokens; attention of each step; mask of the steps that the path has."""
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
        """As `_vocabulary_loss`, but without the END of leaves, so with one step less."""
        routes, trie = self.routes[paths], self._trie(cells.device, constrained=True)
        node, child = routes[:, :-1], routes[:, 1:]  # (b, t)
        readout, attention = self.decoder(cells, _inputs(self.targets[paths][:, :-1]))
        writing = child >= 0
        choosing = writing & (trie.first[node + 1] - trie.first[node] > 1)
        node, child = node[choosing], child[choosing]  # (n,)
        edge, valid = trie.edges(node, max(trie.fan_out))  # (n, f)
        (logits,) = self.decoder.logits_of(readout[choosing][None], trie.token[edge], valid)  # (n, f)
        if self.edge_log_priors is not None:
            logits = logits + self.edge_log_priors[edge]
        right = child - 1 - trie.first[node]  # index of the child among its node's edges
        loss = nn.functional.cross_entropy(logits.float(), right, reduction="sum")
        if self.label_smoothing:  # torch's would include invalid candidates
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
                else DeviceTrie.unconstrained(len(taxonomy.tokens), taxonomy.depth + 1, device)
            )
        return self._tries[constrained, device]


Model = Categorizer | Classifier


def reads_titles(model: Model) -> bool:
    """Whether ``model`` can use titles."""
    return isinstance(model, Categorizer) and model.title_head is not None


def _inputs(targets: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """The token before each of ``targets``."""
    return torch.cat([torch.full_like(targets[:, :1], START), targets[:, :-1]], dim=1)
