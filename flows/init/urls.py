"""``atlas init`` for a table of image URLs: downloads a sample of the images, and writes params.yaml for all of them.

The sample is downloaded as the stage fetch does, into its spool, so that it is not downloaded twice. A table without
categories can be fetched and predicted, but not trained on; then only the keys of the source are written.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random

from atlas_model.core.errors import InputError
from atlas_model.core.params import Params, load_params
from atlas_model.core.progress import say
from atlas_model.data.image_survey import ImageStatistics, survey
from atlas_model.data.schemas import PRODUCTS, read_table
from atlas_model.taxonomy.tree import CategoryPath
from crawlers.fetch.images import FetchReport, fetch_images
from crawlers.fetch.spool import Spool
from crawlers.files.products import ProductCounts, write_products
from crawlers.files.references import FAULT
from crawlers.files.roles import ColumnGuess, guess_columns, sample_rows
from crawlers.files.table import PARQUET, has_embedded_images, read_rows
from crawlers.files.urls import requested
from crawlers.http.urls import request_url
from crawlers.http.user_agent import user_agent
from flows import paths
from flows.init.choices import Choice, choose_min_products, choose_split, choose_title, choose_training
from flows.init.params_file import check_not_edited, describe_written, known_choices, write_choices
from flows.init.report import DataSurvey, report
from flows.init.table_choices import choose_columns, columns_by_role, snapshot_name
from flows.text import printable

SAMPLE = 200  # images that are downloaded
COLOUR_SAMPLE = 100  # of these, images that are checked for colour
LOOKED_AT = 50  # rows that decide whether a table has URLs
SEED = 1
PRODUCTS_FILE = paths.WORK / "init/urls.parquet"
PREDICT = "atlas predict --input data/images/shards --output answers.parquet"


def is_url(text: str) -> bool:
    """Whether ``text`` is an HTTP or HTTPS URL."""
    try:
        request_url(text)
    except ValueError:
        return False
    return True


def holds_urls(table: Path) -> bool:
    """Whether a column of ``table`` has HTTP URLs in at least half of its first rows, and none holds images.

    Raises:
        InputError: it is not a table.
    """
    rows = (
        [row.fields for row in islice(read_rows(table), LOOKED_AT) if row.fields is not None] if table.is_file() else []
    )
    names = dict.fromkeys(name for row in rows for name in row)
    if table.suffix.lower() in PARQUET and any(has_embedded_images(table, name) for name in names):
        return False
    texts = ([row.get(name) for row in rows] for name in names)
    return any(2 * sum(isinstance(text, str) and is_url(text) for text in column) >= len(rows) for column in texts)


def init_urls(
    table: Path, params_file: Path, columns: Sequence[str], *, force: bool, run: str, encoder: str | None
) -> int:
    """Write ``params_file`` for a table of URLs, and print the choices, the faults and the next command.

    Args:
        table: the table.
        params_file: the file to change.
        columns: ``role=name``, for columns whose role would be detected wrongly.
        force: overwrite the file although it has uncommitted changes.
        run: the next command, which trains.
        encoder: as `choices.choose_training` takes it.

    Raises:
        InputError: the data are not usable, or ``params_file`` has uncommitted changes.
        RetryError: no image of the sample could be downloaded.
    """
    params = load_params(params_file)
    check_not_edited(params_file, force)
    guess = _guess(table, columns)
    counts = write_products(
        PRODUCTS_FILE, table=table, images=table, separator=guess.separator, columns=guess.columns, urls=True
    )
    source = [
        Choice("crawl.source", "urls"),
        Choice("crawl.snapshot", snapshot_name(table)),
        Choice("crawl.files.table", str(table)),
        Choice("crawl.files.images", str(table)),
        *choose_columns(guess),
        Choice("zoom.enabled", False, "no close-ups of this data set are labelled"),
    ]
    found, fetched = _look(params, table, counts)
    told = ", ".join(f"{status} {count}" for status, count in fetched.statuses.items())
    words = [f"a sample of {fetched.urls} of the image URLs was downloaded: {told}"]
    if not guess.columns.category:
        choices = known_choices(source, params_file)
        backup = write_choices(params_file, choices)
        lines = [
            f"{table}: {counts.rows} rows, {counts.products} products, no categories",
            *words,
            describe_written(params_file, backup),
            *(f"  {choice.key}: {choice.value}  {choice.why}".rstrip() for choice in choices),
            *(f"warning: {warning}" for warning in counts.warnings),
            "",
            "No column holds categories, so nothing can be trained on this table: it can be downloaded and predicted.",
        ]
        _print(lines, f"dvc repro fetch && {PREDICT}")
        return 0
    least = choose_min_products(found.products)
    used = sum(found.images_in[path] for path, count in found.products.items() if count >= least.value)
    title = None if guess.columns.title is None else 1 - counts.without_title / counts.products
    choices = known_choices(
        [
            *source,
            *choose_split(found.images, pretrained=encoder is not None, hints=list(found.hints)),
            least,
            *choose_training(encoder, used),
            choose_title(title),
        ],
        params_file,
    )
    backup = write_choices(params_file, choices)
    _print(report(found, table, table, choices, [*words, describe_written(params_file, backup)]), run)
    return 0


def _print(lines: Sequence[str], next_command: str) -> None:
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stdout.write(f"\nNext: {next_command}\n")


def _guess(table: Path, given: Sequence[str]) -> ColumnGuess:
    rows = sample_rows(read_rows(table))
    try:
        guess = guess_columns(rows, is_image=is_url, embedded=(), given=columns_by_role(given), labelled=False)
    except InputError as error:
        raise InputError(f"{table}: {error}") from error
    if "image" in guess.reasons:
        guess.reasons["image"] = guess.reasons["image"].replace("name a file in the folder", "are URLs")
    return guess


def _look(params: Params, table: Path, counts: ProductCounts) -> tuple[DataSurvey, FetchReport]:
    """Download a sample of the images. Counts of images per category are those of URLs."""
    urls = sorted(set(requested(PRODUCTS_FILE)))
    if not urls:
        raise InputError(f"{table}: expected image URLs, got none")
    sample = Random(SEED).sample(urls, min(SAMPLE, len(urls)))
    say(f"downloading {len(sample)} of {len(urls)} images, to look at them")
    with Spool(paths.WORK / "fetch/urls") as spool:
        fetched = fetch_images(
            sample,
            spool,
            snapshot=snapshot_name(table),
            connect_map=params.crawl.connect_map,
            user_agent=user_agent(params.crawl.contact),
            robots_tags=params.crawl.robots_tags,
            **params.fetch.model_dump(exclude={"shard_rows", "max_failed_share"}),
            max_failed_share=1.0,
        )
        samples = (row["bytes"] for row in islice(spool.images(), COLOUR_SAMPLE))
        statistics = survey((info for _, info in spool.infos()), samples)
        examples: defaultdict[str, list[str]] = defaultdict(list)
        for url in sample:
            examples[spool.lookup(url).status].append(url)
    return _survey(params, counts, fetched, dict(examples), statistics), fetched


def _survey(
    params: Params,
    counts: ProductCounts,
    fetched: FetchReport,
    examples: Mapping[str, Sequence[str]],
    statistics: ImageStatistics,
) -> DataSurvey:
    columns = ["taxonomy", "split_hint", "image_urls", "details"]
    products: Counter[CategoryPath] = Counter()
    hints: Counter[str] = Counter()
    shown: defaultdict[str, Counter[CategoryPath]] = defaultdict(Counter)
    for row in read_table(PRODUCTS_FILE, PRODUCTS, "crawl", columns).to_pylist():
        if FAULT in dict(row["details"]):
            continue
        category = tuple(row["taxonomy"])
        products[category] += 1
        hints.update([row["split_hint"]] if row["split_hint"] is not None else [])
        for url in row["image_urls"]:
            shown[url][category] += 1
    return DataSurvey(
        counts=counts,
        statuses=Counter(fetched.statuses),
        examples=examples,
        images=statistics,
        products=products,
        images_in=Counter(path for paths_of in shown.values() if len(paths_of) == 1 for path in paths_of),
        conflicts=sorted(url for url, paths_of in shown.items() if len(paths_of) > 1),
        copies=sum(paths_of.total() - 1 for paths_of in shown.values() if len(paths_of) == 1),
        hints=hints,
        unnamed=0,
        test_share=params.split.test_share,
    )
