"""``atlas predict``: predicts category paths for named images, or one path for a product, and prints them.

An image that cannot be read is reported in one line on stderr; the others are still predicted.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from atlas_model.confidence.products import ProductPool
from atlas_model.core.errors import ImageError, InputError
from atlas_model.core.machine import check_machine
from atlas_model.core.progress import say
from atlas_model.data.image_files import describe_skipped, image_files, read_image
from atlas_model.data.titles import split_words
from atlas_model.inference.predictor import BATCH, ConfidenceRule, Prediction, Predictor, ProductPrediction
from atlas_model.taxonomy.tree import SEPARATOR
from flows.cli.outputs import writing
from flows.registry.model_folders import model_folder
from flows.text import printable

if TYPE_CHECKING:
    from atlas_model.confidence.risk_control import Subject, Thresholds
    from atlas_model.data.titles import Modality
    from atlas_model.inference.engines import EngineName

NOT_SURE = "not sure"


def predict(
    images: Sequence[str],
    *,
    model: str | None,
    beam: int,
    top: int,
    min_confidence: float | None,
    accuracy: float | None,
    engine: "EngineName",
    attention: Path | None,
    as_json: bool,
    product: bool,
    title: str | None,
) -> int:
    """Print the ``top`` paths of each image, or of one product; 2 if an image could not be read, else 0.

    With a title and no images, the prediction is from the title alone.

    Raises:
        InputError: there is no image; options exclude each other; no image of the product can be read; or there is a
            title, but the model reads none.
    """
    check_confidence(top, min_confidence, accuracy)
    if product and attention is not None:
        raise InputError("--attention draws one image: expected no --product")
    folder = model_folder(model)
    say(f"model: {folder}")
    predictor = Predictor.load(folder)
    given = _given(predictor, title, images)
    rule = confidence_rule(folder, min_confidence, accuracy, of="products" if product else "images", given=given)
    if given == "title":
        (predictions,) = predictor.predict_prepared(None, beam, top, rule, [title])
        sys.stdout.write(_as_json({"title": title}, predictions) if as_json else _as_lines("title", predictions))
        return 0
    if engine != "auto":
        predictor.accelerate(engine, engine_cache())
    paths = _image_paths(images)
    pool = predictor.pool() if product else None
    readable: list[Path] = []  # of the product
    seen = unreadable = 0
    while batch := list(islice(paths, BATCH)):
        if engine == "auto" and seen == BATCH:  # the first batch takes less time than to find and start an engine
            predictor.accelerate(engine, engine_cache())
        seen += len(batch)
        if attention is not None and seen > 1:
            raise InputError("--attention draws one image: expected one path, got more")
        decoded = list(_decoded(batch, predictor))
        unreadable += len(batch) - len(decoded)
        if pool is not None:
            _add_to(pool, predictor, [image for _, image in decoded], title)
            readable += [path for path, _ in decoded]
            continue
        found = predictor.predict([image for _, image in decoded], beam, top, rule, [title] * len(decoded))
        for (path, image), predictions in zip(decoded, found, strict=True):
            name = str(path)
            sys.stdout.write(_as_json({"image": name}, predictions) if as_json else _as_lines(name, predictions))
            if attention is not None:
                _write_attention(attention, predictor.attention_overlay(image, predictions[0]))
        sys.stdout.flush()  # the reader of a pipe gets each batch at once
    if not seen:
        raise InputError("expected images, got none: name files or folders, or write their paths to stdin")
    if pool is not None:
        if not readable:
            raise InputError(f"expected an image of the product that can be read, got none of {seen}")
        of_product = predictor.predict_product(pool, top, rule)
        sys.stdout.write(_product_as_json(readable, of_product) if as_json else _product_as_lines(of_product))
    return InputError.exit_code if unreadable else 0


def _given(predictor: Predictor, title: str | None, images: Sequence[str]) -> "Modality":
    """What the prediction is made from.

    Raises:
        InputError: the model reads no titles, or the title has no word and there is no image.
    """
    if title is None:
        return "image"
    if not predictor.reads_titles:
        raise InputError(
            "--title: expected a model that reads titles, got one that was trained on images alone. Omit --title, or "
            "train a model with titles (train.title: ngrams)"
        )
    if split_words(title):
        return "image_and_title" if images else "title"
    if not images:
        raise InputError("--title: expected a title with a word in it, or images; got neither")
    say("warning: --title contains no word, so the predictions are from the images alone")
    return "image"


def _add_to(pool: ProductPool, predictor: Predictor, images: Sequence[Image.Image], title: str | None) -> None:
    if images:
        pixels = np.stack([predictor.prepare(image) for image in images])
        pool.add(predictor.distribution(pixels, [title] * len(images)))


def check_confidence(top: int, min_confidence: float | None, accuracy: float | None) -> None:
    """Check the options that set how deep a prediction goes.

    Raises:
        InputError: both are given, or one of them with more than one prediction per image.
    """
    if min_confidence is not None and accuracy is not None:
        raise InputError(
            "--min-confidence and --accuracy both set how deep a prediction goes: expected one of them, got both"
        )
    option = "--accuracy" if min_confidence is None else "--min-confidence"
    if top > 1 and (min_confidence is not None or accuracy is not None):
        raise InputError(f"{option} gives one prediction per image: expected no --top, got --top {top}")


def confidence_rule(
    folder: Path,
    min_confidence: float | None,
    accuracy: float | None,
    of: "Subject" = "images",
    given: "Modality" = "image",
) -> ConfidenceRule | None:
    """The rule that decides how deep a prediction goes: a probability, or the thresholds for ``accuracy``.

    Args:
        folder: of the model.
        min_confidence: the smallest probability of a predicted category.
        accuracy: the guaranteed share of correct predictions.
        of: what is predicted: images or products.
        given: what the prediction is made from.

    Raises:
        InputError: the model cannot guarantee ``accuracy``; the text says which accuracies it can.
    """
    return min_confidence if accuracy is None else thresholds(folder, accuracy, of, given)


def thresholds(folder: Path, accuracy: float, of: "Subject" = "images", given: "Modality" = "image") -> "Thresholds":
    """The thresholds with which the model in ``folder`` guarantees ``accuracy``; arguments as in `confidence_rule`.

    Raises:
        InputError: it cannot; the text says which accuracies it can guarantee.
    """
    from atlas_model.confidence.guarantees import load_guarantees

    what = of if given == "image" else "titles" if given == "title" else f"{of} with titles"
    promised, found = load_guarantees(folder, given).for_subject(of).at(accuracy, what)
    whole = "no whole paths" if found.whole is None else f"whole paths from probability {found.whole:.4g}"
    say(f"accuracy {promised:g} of {what}: {whole}, shorter paths from {found.shorter:.4g}")
    return found


def engine_cache() -> Path:
    """The user's cache folder of the engines: exported graphs, and which engine was the fastest."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atlas/engines"


def _image_paths(arguments: Sequence[str]) -> Iterator[Path]:
    left_out: Counter[str] = Counter()  # of folders
    for path in _named_paths(arguments):
        if _is_folder(path):
            yield from image_files(path, left_out)
        else:
            yield path
    if left_out:
        say(describe_skipped(left_out))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # reported when it is read
        return False


def _named_paths(arguments: Sequence[str]) -> Iterator[Path]:
    stdin = sys.stdin.buffer if sys.stdin else BytesIO()  # None where it is closed
    if not arguments and stdin.isatty():
        return
    for argument in arguments or ["-"]:
        if argument == "-":
            lines = (line.rstrip(b"\r\n") for line in stdin)  # bytes: a file name may have no valid encoding
            yield from (Path(os.fsdecode(line)) for line in lines if line)
        else:
            yield Path(argument)


def _decoded(paths: Iterable[Path], predictor: Predictor) -> Iterator[tuple[Path, Image.Image]]:
    """The readable images, decoded one at a time and scaled down for the model."""
    for path in paths:
        try:
            yield path, predictor.read(read_image(path))
        except (OSError, ValueError, ImageError) as error:  # ValueError: a NUL in the path
            check_machine(error)
            reason = error.strerror if isinstance(error, OSError) else error
            say(f"error: {printable(str(path))}: {reason}")


def _as_lines(name: str, predictions: Sequence[Prediction], *more: str) -> str:
    return "".join("\t".join([printable(name), *_cells(each), *more]) + "\n" for each in predictions)


def _cells(prediction: Prediction) -> list[str]:
    """Probability, path, and the band if there is one."""
    band = [] if prediction.band is None else [prediction.band.replace("_", " ")]
    if not prediction.path:
        return ["-", NOT_SURE, *band]
    return [f"{prediction.probability:.3f}", printable(SEPARATOR.join(prediction.path)), *band]


def _product_as_lines(found: ProductPrediction) -> str:
    name = f"product of {found.images} {'image' if found.images == 1 else 'images'}"
    return _as_lines(name, found.predictions, *["disagree"] * found.disagree)


def _as_json(about: dict[str, Any], predictions: Sequence[Prediction]) -> str:
    rows = [
        {
            "path": each.path,
            "probability": each.probability,
            "levels": each.levels,
            "category_id": each.category_id,
        }
        | ({} if each.band is None else {"band": each.band})
        for each in predictions
    ]
    complete = all(prediction.path for prediction in predictions)
    return json.dumps({**about, "status": "ok" if complete else "not_sure", "predictions": rows}) + "\n"


def _product_as_json(paths: Sequence[Path], found: ProductPrediction) -> str:
    return _as_json({"images": [str(path) for path in paths], "disagree": found.disagree}, found.predictions)


def _write_attention(path: Path, image: Image.Image) -> None:
    with writing(path, "--attention"):
        image.save(path, "PNG")
