"""Trains `model.ZoomNet` and `linear.ZoomLinear` on labelled images, and measures them on held-out ones.

Images are split (train, val, test) by source: those cut from one original stay together. Both networks use the same
splits. On the CPU the same seed gives the same weights.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from atlas_model.core.errors import AtlasError, ImageError, InputError
from atlas_model.core.progress import Progress, track
from atlas_model.data.augmentation import Augmentation, augment
from atlas_model.data.images import Preprocessing, to_array
from atlas_model.data.schemas import LABELS
from atlas_model.zoom.linear import ZoomLinear
from atlas_model.zoom.model import ZoomModel, ZoomNet, binary_scores

SPLITS = ("train", "val", "test")
SHIFT_SHARE = 0.1  # maximum shift in training, as a share of the image's side
INVERSE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the L2 penalty on the linear layer; chosen on validation


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images, all readable, without duplicates and contradictions."""

    pixels: UInt8[np.ndarray, "n 3 size size"]
    zoomed: Int[np.ndarray, "n"]  # 0 or 1
    source_ids: list[str]
    dropped: dict[str, int]  # reason -> images


@dataclass(frozen=True)
class ZoomEpoch:
    """Figures of an epoch."""

    epoch: int  # from 1
    train_loss: float
    val_loss: float
    val_f1_zoomed: float  # at the threshold .5


def read_labelled(table: pa.Table, preprocessing: Preprocessing) -> LabelledImages:
    """Decode ``table`` (`schemas.LABELLED`); unusable rows are discarded and counted by reason.

    The reasons: ``label_conflict`` (an image with both labels: all of its rows), ``duplicate`` (with the same
    label), and the statuses of `ImageError`.

    Raises:
        InputError: a label is neither zoomed nor normal.
    """
    labels_of: dict[str, set[str]] = {}
    for image_id, label in zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True):
        labels_of.setdefault(image_id, set()).add(label)
    unknown = sorted(map(str, set().union(*labels_of.values()) - set(LABELS))) if labels_of else []
    if unknown:
        raise InputError(f"labelled images: expected the labels {' and '.join(LABELS)}, got {', '.join(unknown)}")
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    pixels, zoomed, source_ids = [], [], []
    for row in track(table.to_pylist(), "decode labelled", table.num_rows, "images"):
        reason = _drop_reason(row["image_id"], labels_of, seen)
        if reason is None:
            try:
                pixels.append(to_array(preprocessing.read(row["bytes"])))
            except ImageError as error:
                reason = error.status
        if reason is not None:
            dropped[reason] += 1
            continue
        zoomed.append(LABELS.index(row["label"]))
        source_ids.append(row["source_id"])
    size = preprocessing.size
    stacked = np.stack(pixels) if pixels else np.empty((0, 3, size, size), dtype=np.uint8)
    return LabelledImages(stacked, np.array(zoomed, dtype=np.int64), source_ids, dict(sorted(dropped.items())))


def fingerprint(table: pa.Table) -> str:
    """SHA-256 of the image ids and labels in ``table`` (`schemas.LABELLED`), independent of their order."""
    lines = sorted(map(" ".join, zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _drop_reason(image_id: str, labels_of: dict[str, set[str]], seen: set[str]) -> str | None:
    if len(labels_of[image_id]) > 1:
        return "label_conflict"
    if image_id in seen:
        return "duplicate"
    seen.add(image_id)
    return None


def draw_splits(source_ids: list[str], *, val_share: float, test_share: float, seed: int) -> Int[np.ndarray, "n"]:
    """For each image the index of its split in `SPLITS`, from a seeded hash of its source alone."""
    digests = [hashlib.sha256(f"{seed} {source_id}".encode()).digest() for source_id in source_ids]
    places = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])  # range [0, 1)
    return np.where(places < test_share, 2, np.where(places < test_share + val_share, 1, 0))


def train_zoom(
    labelled: LabelledImages,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    epochs: int,
    patience: int,
    lr: float,
    val_share: float,
    test_share: float,
    seed: int,
    device: torch.device,
) -> tuple[ZoomModel, list[ZoomEpoch]]:
    """Train with early stopping on the validation loss; choose the threshold and measure the best epoch.

    Args:
        labelled: from `read_labelled`, with the same ``preprocessing``.
        preprocessing: RGB; its size is the network's.
        batch_size: images per step.
        epochs: maximum.
        patience: epochs without a lower validation loss before it stops.
        lr: of Adam.
        val_share: of the sources; selects the epoch and the threshold.
        test_share: of the sources; for the final measurement only.
        seed: of the splits, the weights, the order, the augmentation and the dropout.
        device: to train on.

    Returns:
        The model, whose ``metrics`` hold precision, recall and F1 of both labels on val and test; and the history.

    Raises:
        InputError: a split has no image of one of the labels.
        AtlasError: the loss is NaN or infinite.
    """
    part = draw_splits(labelled.source_ids, val_share=val_share, test_share=test_share, seed=seed)
    _check_parts(part, labelled.zoomed)
    torch.manual_seed(seed)  # weights and dropout
    generator = torch.Generator().manual_seed(seed)
    net = ZoomNet(preprocessing.size).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    pixels, targets = torch.from_numpy(labelled.pixels), torch.from_numpy(labelled.zoomed).float()
    train, val, test = (torch.from_numpy(np.flatnonzero(part == index)) for index in range(len(SPLITS)))
    zoomed_share = targets[train].mean()
    loss_of = nn.BCEWithLogitsLoss(pos_weight=(1 - zoomed_share) / zoomed_share).to(device)

    history: list[ZoomEpoch] = []
    best = net.state_dict()
    with Progress("zoom_train", epochs, "epochs") as progress:
        while len(history) < epochs and (not history or len(history) - _best(history).epoch < patience):
            order = train[torch.randperm(len(train), generator=generator)]
            batches = torch.split(order, batch_size)
            train_loss = _train_epoch(
                net, optimizer, loss_of, pixels=pixels, targets=targets, batches=batches, generator=generator
            )
            logits = _logits(net, pixels[val], batch_size)
            val_loss = float(loss_of(logits.to(device), targets[val].to(device)))
            if not math.isfinite(train_loss + val_loss):
                raise AtlasError("zoom_train: training diverged: the loss is NaN or infinite. Lower zoom_train.lr.")
            f1_zoomed = _scores(logits, targets[val], 0.5)["f1_zoomed"]
            history.append(ZoomEpoch(len(history) + 1, train_loss, val_loss, f1_zoomed))
            if _best(history) is history[-1]:
                best = {name: tensor.clone() for name, tensor in net.state_dict().items()}
            progress.advance(val_loss=val_loss, val_f1_zoomed=f1_zoomed)
    net.load_state_dict(best)
    val_logits, test_logits = (_logits(net, pixels[rows], batch_size) for rows in (val, test))
    threshold = choose_threshold(torch.sigmoid(val_logits).numpy(), labelled.zoomed[val.numpy()])
    metrics = {
        "val": _scores(val_logits, targets[val], threshold),
        "test": _scores(test_logits, targets[test], threshold),
    }
    return ZoomModel(net, preprocessing, threshold, metrics), history


def train_linear(
    labelled: LabelledImages,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    val_share: float,
    test_share: float,
    seed: int,
) -> ZoomModel:
    """Fit a linear layer on the features of a pretrained encoder, with the same splits as `train_zoom`.

    Args:
        labelled: from `read_labelled`, with the same ``preprocessing``.
        preprocessing: RGB.
        batch_size: images per batch of the encoder, which runs on the CPU.
        val_share: as in `train_zoom`; selects the strength of the penalty and the threshold.
        test_share: as in `train_zoom`.
        seed: of the splits.

    Returns:
        The model; ``metrics`` as in `train_zoom`.

    Raises:
        InputError: a split has no image of one of the labels, or the encoder's weights are not installed.
    """
    part = draw_splits(labelled.source_ids, val_share=val_share, test_share=test_share, seed=seed)
    _check_parts(part, labelled.zoomed)
    net = ZoomLinear()
    net.load_encoder()
    features = encode_features(net, labelled.pixels, batch_size)
    train, val, test = (part == index for index in range(len(SPLITS)))

    def val_loss(inverse_strength: float) -> float:
        fit_head(net, features[train], labelled.zoomed[train], inverse_strength)
        logits, targets = _head_logits(net, features[val]), torch.from_numpy(labelled.zoomed[val]).float()
        weight = torch.from_numpy(_balanced_weights(labelled.zoomed[val]))
        return float(nn.functional.binary_cross_entropy_with_logits(logits, targets, weight=weight.float()))

    best = min(INVERSE_STRENGTHS, key=val_loss)
    fit_head(net, features[train], labelled.zoomed[train], best)
    threshold = choose_threshold(torch.sigmoid(_head_logits(net, features[val])).numpy(), labelled.zoomed[val])
    metrics = {
        name: _scores(_head_logits(net, features[rows]), torch.from_numpy(labelled.zoomed[rows]).float(), threshold)
        for name, rows in (("val", val), ("test", test))
    }
    return ZoomModel(net, preprocessing, threshold, metrics)


@torch.inference_mode()
def encode_features(
    net: ZoomLinear, pixels: UInt8[np.ndarray, "n 3 size size"], batch_size: int
) -> Float[np.ndarray, "n d"]:
    """Compute the input of the linear layer of ``net`` for each image."""
    net.eval()
    parts = []
    with Progress("encode labelled", len(pixels), "images") as progress:
        for batch in torch.split(torch.from_numpy(pixels), batch_size):
            parts.append(net.features(batch).numpy())
            progress.advance(len(batch))
    return np.concatenate(parts)


def fit_head(
    net: ZoomLinear, features: Float[np.ndarray, "n d"], zoomed: Int[np.ndarray, "n"], inverse_strength: float
) -> None:
    """Fit the linear layer of ``net`` by logistic regression on standardised features, with balanced labels.

    Args:
        net: its layer is replaced.
        features: from `encode_features`.
        zoomed: 0 or 1, both at least once.
        inverse_strength: of the L2 penalty; smaller values give smaller weights.
    """
    from sklearn.linear_model import LogisticRegression

    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    std[std == 0] = 1.0
    regression = LogisticRegression(C=inverse_strength, class_weight="balanced", max_iter=1000)
    regression.fit((features - mean) / std, zoomed)
    weight = regression.coef_[0] / std
    with torch.no_grad():
        net.head.weight.copy_(torch.from_numpy(weight)[None])
        net.head.bias.copy_(torch.from_numpy(regression.intercept_ - weight @ mean))


def choose_threshold(p_zoomed: Float[np.ndarray, "n"], zoomed: Int[np.ndarray, "n"]) -> float:
    """The threshold with the best F1 of "zoomed"; of several, the middle of the widest gap between scores."""
    order = np.argsort(-p_zoomed, kind="stable")
    hits = np.cumsum(zoomed[order])  # among the first 1, 2, ... images
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + zoomed.sum())
    bounds = np.append(p_zoomed[order].astype(np.float64), 0.0)
    gaps = bounds[:-1] - bounds[1:]
    f1[:-1][gaps[:-1] == 0] = -1.0  # no threshold separates equal scores
    place = int(np.where(f1 == f1.max(), gaps, -1.0).argmax())
    return float(bounds[place] + bounds[place + 1]) / 2


@torch.inference_mode()
def _head_logits(net: ZoomLinear, features: Float[np.ndarray, "n d"]) -> Float[Tensor, "n"]:
    logits: Tensor = net.head(torch.from_numpy(features)).squeeze(1)
    return logits


def _balanced_weights(zoomed: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    counts = np.bincount(zoomed, minlength=len(LABELS))
    weights: np.ndarray = (len(zoomed) / (len(LABELS) * counts))[zoomed]
    return weights


def _check_parts(part: Int[np.ndarray, "n"], zoomed: Int[np.ndarray, "n"]) -> None:
    for index, name in enumerate(SPLITS):
        counts = np.bincount(zoomed[part == index], minlength=len(LABELS))
        if not counts.all():
            found = ", ".join(f"{count} {label}" for count, label in zip(counts, LABELS, strict=True))
            raise InputError(
                f"labelled images: expected both labels in the {name} split, got {found}. "
                "Add images, enlarge the split's share (zoom_train), or change the seed."
            )


def _best(history: list[ZoomEpoch]) -> ZoomEpoch:
    return min(history, key=lambda record: record.val_loss)


def _train_epoch(
    net: ZoomNet,
    optimizer: torch.optim.Optimizer,
    loss_of: nn.BCEWithLogitsLoss,
    *,
    pixels: UInt8[Tensor, "n 3 size size"],
    targets: Float[Tensor, "n"],
    batches: Sequence[Int[Tensor, "_"]],
    generator: torch.Generator,
) -> float:
    """Train on ``batches`` of rows; return the mean loss."""
    net.train()
    shift = round(SHIFT_SHARE * pixels.shape[-1])
    losses = []
    for rows in batches:
        images = augment(pixels[rows], generator, Augmentation(flip=True, shift=shift))
        loss = loss_of(net(images.to(net.device)), targets[rows].to(net.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def _logits(net: ZoomNet, pixels: UInt8[Tensor, "n 3 size size"], batch_size: int) -> Float[Tensor, "n"]:
    net.eval()
    return torch.cat([net(batch.to(net.device)).cpu() for batch in torch.split(pixels, batch_size)])


def _scores(logits: Float[Tensor, "n"], targets: Float[Tensor, "n"], threshold: float) -> dict[str, Any]:
    predicted = (torch.sigmoid(logits) >= threshold).int().numpy()
    return binary_scores(predicted, targets.int().numpy())
