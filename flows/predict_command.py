"""``atlas predict``: pictures from files, folders or stdin to category paths on stdout.

A picture that cannot be read gets one line on stderr, and the others go on.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from atlas_model.errors import InputError, PictureError
from atlas_model.images import decode
from atlas_model.picture_files import picture_files, read_picture
from atlas_model.predict import BATCH, Prediction, Predictor
from atlas_model.progress import say
from atlas_model.taxonomy import SEPARATOR
from flows.model_folders import model_folder
from flows.printing import printable

if TYPE_CHECKING:
    from atlas_model.engines import EngineName

NOT_SURE = "not sure"


def predict(
    pictures: Sequence[str],
    *,
    model: str | None,
    beam: int,
    top: int,
    min_confidence: float | None,
    engine: "EngineName",
    attention: Path | None,
    as_json: bool,
) -> int:
    """Print the ``top`` paths of each picture; 2 if one of them could not be read, else 0.

    Raises:
        InputError: no picture, or options that exclude each other.
    """
    check_confidence(top, min_confidence)
    folder = model_folder(model)
    say(f"model: {folder}")
    predictor = Predictor.load(folder)
    if engine != "auto":
        predictor.accelerate(engine, engine_cache())
    paths = _picture_paths(pictures)
    seen = unreadable = 0
    while batch := list(islice(paths, BATCH)):
        if engine == "auto" and seen == BATCH:  # the first batch takes less time than to find and start an engine
            predictor.accelerate(engine, engine_cache())
        seen += len(batch)
        if attention is not None and seen > 1:
            raise InputError("--attention draws one picture: expected one path, got more")
        decoded = list(_decoded(batch))
        unreadable += len(batch) - len(decoded)
        found = predictor.predict([picture for _, picture in decoded], beam, top, min_confidence)
        for (path, picture), predictions in zip(decoded, found, strict=True):
            sys.stdout.write(_as_json(path, predictions) if as_json else _as_lines(path, predictions))
            if attention is not None:
                _write_attention(attention, predictor.attention_overlay(picture, predictions[0]))
        sys.stdout.flush()  # who reads a pipe need not wait for the other batches
    if not seen:
        raise InputError("expected pictures, got none: name files or folders, or write their paths to stdin")
    return InputError.exit_code if unreadable else 0


def check_confidence(top: int, min_confidence: float | None) -> None:
    """Refuse several answers where there is but one.

    Raises:
        InputError: there are.
    """
    if min_confidence is not None and top > 1:
        raise InputError(f"--min-confidence gives one answer per picture: expected no --top, got --top {top}")


def engine_cache() -> Path:
    """The user's folder for what engines make: exported graphs, and which engine was the fastest."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atlas/engines"


def _picture_paths(arguments: Sequence[str]) -> Iterator[Path]:
    for path in _named_paths(arguments):
        if _is_folder(path):
            yield from picture_files(path)
        else:
            yield path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # reading it will say why
        return False


def _named_paths(arguments: Sequence[str]) -> Iterator[Path]:
    stdin = sys.stdin.buffer if sys.stdin else BytesIO()  # None where it is closed
    if not arguments and stdin.isatty():
        return
    for argument in arguments or ["-"]:
        if argument == "-":
            lines = (line.rstrip(b"\r\n") for line in stdin)  # bytes: a file's name may be in no encoding
            yield from (Path(os.fsdecode(line)) for line in lines if line)
        else:
            yield Path(argument)


def _decoded(paths: Iterable[Path]) -> Iterator[tuple[Path, Image.Image]]:
    for path in paths:
        try:
            yield path, decode(read_picture(path))
        except (OSError, ValueError, PictureError) as error:  # ValueError: a NUL in the path
            reason = error.strerror if isinstance(error, OSError) else error
            say(f"error: {printable(str(path))}: {reason}")


def _as_lines(path: Path, predictions: Sequence[Prediction]) -> str:
    name = printable(str(path))
    return "".join(
        f"{name}\t{prediction.probability:.3f}\t{printable(SEPARATOR.join(prediction.path))}\n"
        if prediction.path
        else f"{name}\t-\t{NOT_SURE}\n"
        for prediction in predictions
    )


def _as_json(path: Path, predictions: Sequence[Prediction]) -> str:
    rows = [
        {"path": prediction.path, "probability": prediction.probability, "levels": prediction.levels}
        for prediction in predictions
    ]
    sure = all(prediction.path for prediction in predictions)
    return json.dumps({"picture": str(path), "status": "ok" if sure else "not_sure", "predictions": rows}) + "\n"


def _write_attention(path: Path, picture: Image.Image) -> None:
    try:
        picture.save(path, "PNG")
    except OSError as error:
        raise InputError(f"--attention {printable(str(path))}: cannot be written: {error.strerror}") from error
