"""``atlas predict --input PARQUET_OR_FOLDER --output OUT.parquet``: any number of pictures, resumable."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_model.batch_prediction import predict_all
from atlas_model.checkpoint import DESCRIPTION, WEIGHTS
from atlas_model.dataset import content_key
from atlas_model.errors import InputError
from atlas_model.picture_sources import open_source
from atlas_model.predict import Predictor
from atlas_model.progress import say
from flows.model_folders import model_folder
from flows.predict_command import check_confidence, engine_cache

if TYPE_CHECKING:
    from atlas_model.engines import EngineName


def predict_file(
    given: Path | None,
    output: Path | None,
    *,
    batch_size: int,
    pictures: Sequence[str],
    model: str | None,
    beam: int,
    top: int,
    min_confidence: float | None,
    engine: "EngineName",
    attention: Path | None,
    as_json: bool,
) -> int:
    """Write the ``top`` paths of each picture in ``given`` to ``output``; 2 if one could not be read, else 0.

    Raises:
        InputError: options that exclude each other, no pictures in ``given``, or no place for ``output``.
        AtlasError: the pictures changed meanwhile, or another process is writing ``output``.
    """
    if given is None or output is None:
        raise InputError("--input and --output go together: expected both, got one")
    if pictures or attention or as_json:
        raise InputError("--input takes the place of named pictures, and gives neither --attention nor --json")
    check_confidence(top, min_confidence)
    try:
        if output.is_dir() or output.resolve() in (given.resolve(), given.resolve() / output.name):
            raise InputError(
                f"--output {output}: expected a file that is neither the input nor in its folder, got that"
            )
        source = open_source(given)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise InputError(f"--input {given} --output {output}: expected two places in reach: {error}") from error
    folder = model_folder(model)
    say(f"model: {folder}")
    predictor = Predictor.load(folder)
    options = {"beam": beam, "top": top, "min_confidence": min_confidence}
    try:
        chosen = predictor.accelerate(engine, engine_cache())
        say(f"engine: {chosen}")
        report = predict_all(
            source,
            output,
            prepare=predictor.prepare,
            answer=partial(predictor.answer, **options),
            model_key=f"{content_key([folder / DESCRIPTION, folder / WEIGHTS])} {options} {chosen} {predictor.device}",
            batch_size=batch_size,
        )
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written: {error}") from error
    say(f"{output}: " + ", ".join(f"{count} {status}" for status, count in sorted(report.statuses.items())))
    return InputError.exit_code if report.unreadable else 0
