"""One loaded model, with its version and its guaranteed accuracies, which are read once, together with its weights."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from atlas_model.confidence.guarantees import Guarantees, load_guarantees
from atlas_model.confidence.risk_control import Subject
from atlas_model.core.checkpoint import DESCRIPTION, WEIGHTS
from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.core.progress import say
from atlas_model.data.dataset import content_key
from atlas_model.data.titles import Modality
from atlas_model.inference.engines import EngineName
from atlas_model.inference.predictor import ConfidenceRule, Predictor, RowOptions
from flows.paths import CHAMPION
from flows.registry.champion import read_history

VERSION_CHARACTERS = 12

# Of the files of a folder: inode, size and time of change of each. Another value: the files were replaced.
Fingerprint = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class ServedModel:
    """A model that answers requests."""

    predictor: Predictor
    folder: Path
    fingerprint: Fingerprint
    version: str  # digest of its description and its weights
    champion: int | None  # its version in models/champions.json, if it was loaded as the champion
    engine: str
    guarantees: "dict[Modality, Guarantees | CheckpointError]"
    loaded_at: float  # seconds since the epoch

    @classmethod
    def load(cls, folder: Path, engine: EngineName, cache: Path, warm_up: int) -> "ServedModel":
        """Load the model in ``folder``, start its engine, and predict ``warm_up`` rows as a check.

        Raises:
            CheckpointError: it is damaged, is being replaced, or returns NaN.
            InputError: the engine is not installed, or cannot run it.
        """
        before = fingerprint(folder)
        predictor = Predictor.load(folder)
        guarantees = {modality: _guarantees(folder, modality) for modality in get_args(Modality)}
        version = content_key([folder / DESCRIPTION, folder / WEIGHTS])[:VERSION_CHARACTERS]
        champion = _champion_version() if folder == CHAMPION else None
        if before is None or fingerprint(folder) != before:
            raise CheckpointError(f"{folder}: expected a model that is complete, got one that is being replaced")
        chosen = predictor.accelerate(engine, cache)
        for rows in {1, warm_up}:  # also has the engine prepare for these sizes of batches
            _predict_grey(predictor, rows, chosen)
        return cls(predictor, folder, before, version, champion, chosen, guarantees, time.time())

    @property
    def name(self) -> str:
        """Name of its folder, such as ``champion``."""
        return self.folder.resolve().name

    def to_json(self) -> dict[str, Any]:
        """How each answer names the model."""
        return {"name": self.name, "version": self.version, "champion": self.champion, "engine": self.engine}

    def guaranteed(self, accuracies: Sequence[float]) -> list[float]:
        """Those of ``accuracies`` that it guarantees for images."""
        found = self.guarantees["image"]
        if isinstance(found, CheckpointError):
            return []
        most = max(found.images.thresholds, default=0.0)
        return [accuracy for accuracy in accuracies if accuracy <= most]

    def rule(
        self, min_confidence: float | None, accuracy: float | None, subject: Subject, modality: Modality
    ) -> tuple[ConfidenceRule | None, float | None]:
        """The rule that decides how deep a prediction goes, and the accuracy that it guarantees, if any.

        Raises:
            InputError: the model cannot guarantee ``accuracy``; the text says which accuracies it can.
        """
        if accuracy is None:
            return min_confidence, None
        found = self.guarantees[modality]
        if isinstance(found, CheckpointError):
            raise InputError(_in_json(str(found)))
        what = subject if modality == "image" else "titles" if modality == "title" else f"{subject} with titles"
        try:
            promised, thresholds = found.for_subject(subject).at(accuracy, what)
        except InputError as error:
            raise InputError(_in_json(str(error))) from error
        return thresholds, promised


def fingerprint(folder: Path) -> Fingerprint | None:
    """The fingerprint of the model in ``folder``; None if a file is missing."""
    try:
        found = [(folder / name).stat() for name in (DESCRIPTION, WEIGHTS)]
    except OSError:
        return None
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def _guarantees(folder: Path, modality: Modality) -> Guarantees | CheckpointError:
    try:
        return load_guarantees(folder, modality)
    except CheckpointError as error:  # reported to the requests that ask for an accuracy
        return error


def _champion_version() -> int | None:
    try:
        history = read_history()
    except InputError as error:  # the model can be served without its number
        say(f"warning: the champion's version is unknown: {error}")
        return None
    return history[-1].version if history else None


def _predict_grey(predictor: Predictor, rows: int, engine: Literal["auto"] | str) -> None:
    side = predictor.side
    channels = predictor.channels
    pixels = [np.full((channels, side, side), 128, dtype=np.uint8)] * rows
    try:
        predictor.predict_mixed(pixels, [None] * rows, [RowOptions()] * rows)
    except InputError as error:
        if engine != "onnxruntime-int8" or isinstance(error, CheckpointError):
            raise
        raise InputError(
            "--engine onnxruntime-int8: expected a calibrated encoder, got none. Calibrate it once with your images: "
            "atlas predict --engine onnxruntime-int8 --input FOLDER --output OUT.parquet"
        ) from error


def _in_json(text: str) -> str:
    """A message of the command line with the names of JSON."""
    return text.replace("--min-confidence", "min_confidence").replace("--accuracy", "accuracy")
