"""``atlas predict --input PARQUET_OR_FOLDER --output OUT.parquet``: predictions for any number of images, resumable.

With ``--products PRODUCTS.parquet`` the images of each product also get one prediction together, in a second file.
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
from flows.cli.outputs import writing
from flows.cli.predict import check_confidence, confidence_rule, engine_cache, thresholds
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
    """Write the ``top`` paths of each image in ``given`` to ``output``; 2 if an image could not be read, else 0.

    The best path of each product, from all its images, goes to ``products``, if that is given.

    Raises:
        InputError: the options exclude each other, ``given`` has no images, or ``output`` cannot be written.
        AtlasError: the images have changed since ``output`` was begun, or another process is writing it.
    """
    if given is None or output is None:
        raise InputError("--input and --output go together: expected both, got one")
    if images or attention or as_json or product:
        raise InputError(
            "--input excludes named images, --attention, --json and --product: expected none of them. "
            "--products FILE writes one prediction per product"
        )
    if title is not None:
        raise InputError("--input reads titles from the column title: expected no --title")
    check_confidence(top, min_confidence, accuracy)
    real = Path(os.path.realpath(given))  # keeps a loop of links, unlike resolve() of some Python versions
    try:
        for option, file in (("--output", output), ("--products", products)):
            if file is not None and (file.is_dir() or real in (file.resolve(), file.resolve().parent)):
                raise InputError(
                    f"{option} {file}: expected a file that is neither the input nor inside its folder, got one that is"
                )
        if products is not None:
            if products.resolve() == output.resolve():
                raise InputError(f"--products {products}: expected another file than --output, got the same")
            try:  # now, because it is written last
                products.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--products {products}: expected a file in a folder: {error}") from error
        source = open_source(given, products=products is not None)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links, before Python 3.13
        raise InputError(f"--input {given} --output {output}: expected two accessible paths: {error}") from error
    _report_skipped(given, source)
    folder = model_folder(model)
    say(f"model: {folder}")
    predictor = Predictor.load(folder)
    if predictor.reads_titles:
        source = open_source(given, products=products is not None, titles=True)
        say(f"titles: {source.titled} of {source.count} images have one, in the column title")
    rule = _image_rule(folder, min_confidence, accuracy, source)
    of_products = None if products is None else _product_rule(folder, min_confidence, accuracy, source)
    options: _Options = {"beam": beam, "top": top, "min_confidence": rule}
    with writing(output, "--output"):
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
    say(f"{output}: {_counts(report.statuses)}")
    if products is not None:
        say(f"{products}: {_counts(report.products)} products")
    return InputError.exit_code if report.unreadable else 0


def _report_skipped(given: Path, source: ImageSource) -> None:
    if source.skipped:
        say(f"{given}: {describe_skipped(source.skipped)}")


def _image_rule(
    folder: Path, min_confidence: float | None, accuracy: float | None, source: ImageSource
) -> ConfidenceRule | ConfidenceRules | None:
    """The rule for single images: images with a title and without one have separate thresholds."""
    if accuracy is None or not source.titled:
        return confidence_rule(folder, min_confidence, accuracy)
    kinds: list[Modality] = ["image_and_title"] if source.titled == source.count else ["image", "image_and_title"]
    return {given: thresholds(folder, accuracy, given=given) for given in kinds}


def _product_rule(
    folder: Path, min_confidence: float | None, accuracy: float | None, source: ImageSource
) -> ConfidenceRule | None:
    if accuracy is not None and 0 < source.titled < source.count:
        raise InputError(
            "--accuracy with --products: products with and without titles have separate guarantees; expected titles "
            f"for all images or for none, got {source.titled} for {source.count}"
        )
    given: Modality = "image_and_title" if source.titled else "image"
    return confidence_rule(folder, min_confidence, accuracy, of="products", given=given)


def _counts(statuses: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
