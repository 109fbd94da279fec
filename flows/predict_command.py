"""``atlas predict``: pictures from files, folders or stdin to category paths on stdout.

A picture that cannot be read gets one line on stderr, and the others go on.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from atlas_model.errors import InputError, PictureError
from atlas_model.images import FORMATS, decode
from atlas_model.predict import Prediction, Predictor
from atlas_model.progress import say
from atlas_model.taxonomy import SEPARATOR
from flows.printing import printable
from flows.stages.paths import CATEGORIZER

PRETRAINED = Path(__file__).resolve().parents[1] / "models/pretrained"  # the demo's model, shipped with the code
OWN_MODELS = (Path("models/champion"), CATEGORIZER)  # the first of them that is there goes before the shipped one
SUFFIXES = {f".{name.lower()}" for name in (*FORMATS, "jpg", "tif")}  # what counts as a picture inside a folder
BATCH = 64  # pictures in memory at once


def predict(
    pictures: Sequence[str], model: Path | None, beam: int, top: int, attention: Path | None, *, as_json: bool
) -> int:
    """Print the ``top`` paths of each picture; 2 if one of them could not be read, else 0.

    Raises:
        InputError: no picture, or more than one picture for ``attention``.
    """
    folder = model or _default_model()
    say(f"model: {folder}")
    predictor = Predictor.load(folder)
    paths = _picture_paths(pictures)
    seen = unreadable = 0
    while batch := list(islice(paths, BATCH)):
        seen += len(batch)
        if attention is not None and seen > 1:
            raise InputError("--attention draws one picture: expected one path, got more")
        decoded = list(_decoded(batch))
        unreadable += len(batch) - len(decoded)
        found = predictor.predict([picture for _, picture in decoded], beam, top)
        for (path, picture), predictions in zip(decoded, found, strict=True):
            sys.stdout.write(_as_json(path, predictions) if as_json else _as_lines(path, predictions))
            if attention is not None:
                _write_attention(attention, predictor.attention_overlay(picture, beam))
    if not seen:
        raise InputError("expected pictures, got none: name files or folders, or write their paths to stdin")
    return InputError.exit_code if unreadable else 0


def _default_model() -> Path:
    return next((folder for folder in OWN_MODELS if folder.is_dir()), PRETRAINED)


def _picture_paths(arguments: Sequence[str]) -> Iterator[Path]:
    for path in _named_paths(arguments):
        if _is_folder(path):
            yield from sorted(found for found in path.rglob("*") if found.suffix.lower() in SUFFIXES)
        else:
            yield path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # reading it will say why
        return False


def _named_paths(arguments: Sequence[str]) -> Iterator[Path]:
    if not arguments and sys.stdin.isatty():
        return
    for argument in arguments or ["-"]:
        if argument == "-":
            lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)  # bytes: a file's name may be in no encoding
            yield from (Path(os.fsdecode(line)) for line in lines if line)
        else:
            yield Path(argument)


def _decoded(paths: Iterable[Path]) -> Iterator[tuple[Path, Image.Image]]:
    for path in paths:
        try:
            yield path, decode(path.read_bytes())
        except (OSError, ValueError, PictureError) as error:  # ValueError: a NUL in the path
            reason = error.strerror if isinstance(error, OSError) else error
            say(f"error: {printable(str(path))}: {reason}")


def _as_lines(path: Path, predictions: Sequence[Prediction]) -> str:
    name = printable(str(path))
    return "".join(
        f"{name}\t{prediction.probability:.3f}\t{printable(SEPARATOR.join(prediction.path))}\n"
        for prediction in predictions
    )


def _as_json(path: Path, predictions: Sequence[Prediction]) -> str:
    rows = [{"path": list(prediction.path), "probability": prediction.probability} for prediction in predictions]
    return json.dumps({"picture": str(path), "predictions": rows}) + "\n"


def _write_attention(path: Path, picture: Image.Image) -> None:
    try:
        picture.save(path, "PNG")
    except OSError as error:
        raise InputError(f"--attention {printable(str(path))}: cannot be written: {error.strerror}") from error
