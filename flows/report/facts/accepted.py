"""Reads the metrics of the last accepted model from ``models/champions.json``, which promotion writes.

`atlas promote` and the flow append an event per accepted model to that file (`flows.registry.champion`). It is in git,
and a fresh clone has it without events. A report compares its model with the last accepted one; if its model is that
one itself, with the one that it replaced.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_model.core.errors import CheckpointError, InputError


@dataclass(frozen=True)
class AcceptedModel:
    """A model that was accepted as the champion."""

    version: int
    at: str  # ISO 8601, UTC
    reason: str  # of the acceptance, one line
    test: dict[str, Any] | None  # `flows.registry.champion.AcceptedMetrics` as JSON; None: no evaluation of that model


@dataclass(frozen=True)
class Acceptance:
    """The accepted models that a report is about."""

    current: AcceptedModel | None  # the champion; None: no model has been accepted yet
    is_this: bool  # the champion is the model of the report
    before: AcceptedModel | None  # the model that this one is compared with


def read_acceptance(path: Path, weights: str) -> Acceptance:
    """Read the history of champions.

    Args:
        path: ``models/champions.json``.
        weights: SHA-256 of the weights of the model of the report, hex.

    Raises:
        InputError: the file is damaged.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["champions"]
        models = [AcceptedModel(event["version"], event["at"], event["reason"], event.get("test")) for event in events]
        replaced = [event["replaced"] for event in events]
        promoted = {m.version: m for m, event in zip(models, events, strict=True) if not event["rollback"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected the history of champions, as `atlas promote` writes it, got something else ({error}). "
            "Restore it from git"
        ) from error
    if not models:
        return Acceptance(None, False, None)
    current = models[-1]
    if current.test is None or current.test.get("weights") != weights:
        return Acceptance(current, False, current)
    return Acceptance(current, True, promoted.get(replaced[-1]))


def hash_of_weights(folder: Path) -> str:
    """SHA-256 of the weights of the model in ``folder``, hex.

    Raises:
        CheckpointError: the file is missing.
    """
    path = folder / "model.safetensors"  # `atlas_model.core.checkpoint.WEIGHTS`, whose module imports torch
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected the weights of a model, got {error.strerror}. Run: dvc repro train"
        ) from error
