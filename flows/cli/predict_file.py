"""``atlas predict --input PARQUET_OR_FOLDER --output OUT.parquet``: any number of images, resumable.

With ``--products PRODUCTS.parquet`` the images of each product get one answer together, in a file of their own.
"""

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from atlas_model.core.checkpoint import DESCRIPTION, WEIGHTS
from atlas_model.core.errors import InputError
from atlas_model.core.progress import say
from atlas_model.data.dataset import content_key
from atlas_model.data.image_files import describe_skipped
from atlas_model.data.image_sources import ImageSource, open_source
from atlas_model.data.titles import Modality
from atlas_model.inference.batch import predict_all
from atlas_model.inference.batch_products import ProductOutput
from atlas_model.inference.predictor import ConfidenceRule, ConfidenceRules, Predictor
from flows.cli.predict import check_confidence, engine_cache, sureness, thresholds
from flows.registry.model_folders import model_folder

if TYPE_CHECKING:
    from atlas_model.inference.engines import EngineName


class _Options(TypedDict):
    """Of each answer, as `Predictor.answer` takes them."""

    beam: int
    top: int
    min_confidence: ConfidenceRule | ConfidenceRules | None


def predict_file(
    given: Path | None,
    output: Path | None,
    *,
    products: Path | None,
    batch_size: int,
    images: Sequence[str],
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
    """Write the ``top`` paths of each image in ``given`` to ``output``; 2 if one could not be read, else 0.

    The best path of each product, from all its images, goes to ``products``, if that is given.

    Raises:
        InputError: options that exclude each other, no images in ``given``, or no place for ``output``.
        AtlasError: the images changed meanwhile, or another process is writing ``output``.
    """
    if given is None or output is None:
        raise InputError("--input and --output go together: expected both, got one")
    if images or attention or as_json or product:
        raise InputError(
            "--input takes the place of named images, and gives neither --attention nor --json nor --product; "
            "--products FILE is for the answers of products"
        )
    if title is not None:
        raise InputError("--input has titles of its own, in the column title: expected no --title")
    check_confidence(top, min_confidence, accuracy)
    real = Path(os.path.realpath(given))  # a circle of links is left as it is, where resolve() depends on the Python
    try:
        for option, file in (("--output", output), ("--products", products)):
            if file is not None and (file.is_dir() or real in (file.resolve(), file.resolve().parent)):
                raise InputError(
                    f"{option} {file}: expected a file that is neither the input nor in its folder, got that"
                )
        if products is not None:
            if products.resolve() == output.resolve():
                raise InputError(f"--products {products}: expected another file than --output, got the same")
            try:  # it is written last, when it would be late to learn that it cannot be
                products.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--products {products}: expected a file in a folder: {error}") from error
        source = open_source(given, products=products is not None)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle before Python 3.13
        raise InputError(f"--input {given} --output {output}: expected two places in reach: {error}") from error
    _tell_left_out(given, source)
    folder = model_folder(model)
    say(f"model: {folder}")
    predictor = Predictor.load(folder)
    if predictor.reads_titles:
        source = open_source(given, products=products is not None, titles=True)
        say(f"titles: {source.titled} of {source.count} images have one, in the column title")
    sure = _sureness(folder, min_confidence, accuracy, source)
    of_products = None if products is None else _sureness_of_products(folder, min_confidence, accuracy, source)
    options: _Options = {"beam": beam, "top": top, "min_confidence": sure}
    try:
        chosen = predictor.accelerate(engine, engine_cache())
        say(f"engine: {chosen}")
        report = predict_all(
            source,
            output,
            prepare=predictor.prepare,
            side=predictor.side,
            predict=partial(predictor.predict_prepared, **options),
            model_key=f"{content_key([folder / DESCRIPTION, folder / WEIGHTS])} {options} {chosen} {predictor.device}",
            batch_size=batch_size,
            products=None
            if products is None
            else ProductOutput(
                products,
                predict=partial(predictor.predict_with_distribution, **options),
                pool=predictor.pool,
                predict_product=partial(predictor.predict_product, min_confidence=of_products),
            ),
            bands=accuracy is not None,
        )
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written: {error}") from error
    say(f"{output}: {_told(report.statuses)}")
    if products is not None:
        say(f"{products}: {_told(report.products)} products")
    return InputError.exit_code if report.unreadable else 0


def _tell_left_out(given: Path, source: ImageSource) -> None:
    if source.skipped:
        say(f"{given}: {describe_skipped(source.skipped)}")


def _sureness(
    folder: Path, min_confidence: float | None, accuracy: float | None, source: ImageSource
) -> ConfidenceRule | ConfidenceRules | None:
    """Of images: what is promised of those with a title is another thing than of those without."""
    if accuracy is None or not source.titled:
        return sureness(folder, min_confidence, accuracy)
    kinds: list[Modality] = ["image_and_title"] if source.titled == source.count else ["image", "image_and_title"]
    return {given: thresholds(folder, accuracy, given=given) for given in kinds}


def _sureness_of_products(
    folder: Path, min_confidence: float | None, accuracy: float | None, source: ImageSource
) -> ConfidenceRule | None:
    if accuracy is not None and 0 < source.titled < source.count:
        raise InputError(
            "--accuracy with --products: what is promised of products with titles is another thing than of those "
            f"without; expected titles for all images or for none, got {source.titled} for {source.count}"
        )
    given: Modality = "image_and_title" if source.titled else "image"
    return sureness(folder, min_confidence, accuracy, of="products", given=given)


def _told(statuses: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
