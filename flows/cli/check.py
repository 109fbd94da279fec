"""``atlas check``: finds the faults of params.yaml and of the input files that it names, before any stage runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa

from atlas_model.core.errors import InputError
from atlas_model.core.params import PARAMS_FILE, Params, load_params
from atlas_model.core.progress import say
from atlas_model.data.reviews import read_reviews
from atlas_model.taxonomy.changes import load_changes
from atlas_model.taxonomy.files import load_taxonomy
from atlas_model.taxonomy.names import look_alikes
from atlas_model.taxonomy.tree import Taxonomy
from crawlers.files.entries import Columns
from crawlers.files.folder import Folder
from crawlers.files.products import check_table
from crawlers.sources.csv_sources import Source, read_sources
from crawlers.sources.manifest import read_manifest_products
from flows.dvc.after_kill import mend
from flows.paths import REVIEWS


def check() -> int:
    """Print the files without faults on stdout and all faults on stderr; 2 if there are any.

    Before that, mend what a killed DVC process left: this is the first step of `make run`.

    Raises:
        ParamsError: params.yaml itself is faulty, so the paths of the other files are unknown.
    """
    mend()
    params = load_params()
    sys.stdout.write(f"{PARAMS_FILE}: ok\n")
    exit_code = 0
    names: set[str] = set()
    for path, read in _inputs(params):
        try:
            names.update(_names_in(read(path)))
            sys.stdout.write(f"{path}: ok\n")
        except InputError as error:
            say(f"error: {error}")
            exit_code = error.exit_code
    for group in look_alikes(names):
        say(
            f"warning: these names of categories look alike but differ in their characters, so they count as different "
            f"categories: {' and '.join(map(repr, group))}"
        )
    return exit_code


def _names_in(content: object) -> Iterator[str]:
    """The names of the categories in an input file, if it contains any."""
    if isinstance(content, Taxonomy):
        yield from content.names
    elif isinstance(content, list):
        yield from (name for source in content if isinstance(source, Source) for name in source.taxonomy)
    elif isinstance(content, pa.Table):
        yield from (name for path in content["taxonomy"].to_pylist() for name in path)


def _inputs(params: Params) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    if params.split.labels == "listed":
        yield params.split.taxonomy, load_taxonomy
    yield params.split.taxonomy_changes, partial(_read_changes, params)
    if params.crawl.source == "manifest":
        yield params.crawl.manifest, read_manifest_products
    elif params.crawl.source in ("files", "urls"):
        given, urls = params.crawl.files, params.crawl.source == "urls"
        columns = Columns(**given.columns.names)
        yield (
            given.table,
            partial(check_table, images=given.images, separator=given.separator, columns=columns, urls=urls),
        )
        if given.images != given.table and not urls:
            yield given.images, Folder
    else:
        yield params.crawl.sources, read_sources
    if params.zoom.enabled and params.zoom.filter == "trained" and params.crawl.source != "demo":
        yield params.zoom_train.labelled, _read_labelled
    if any(REVIEWS.glob("*.jsonl")):
        yield REVIEWS, read_reviews


def _read_changes(params: Params, path: Path) -> None:
    taxonomy = None
    if params.split.labels == "listed":
        with suppress(InputError):  # reported for the taxonomy's file
            taxonomy = load_taxonomy(params.split.taxonomy)
    load_changes(path, taxonomy)


def _read_labelled(folder: Path) -> None:
    """Check the labelled images; those of the demo are refused: a filter trained on them fits no other catalogue."""
    from atlas_model.data.schemas import LABELLED, read_table
    from atlas_model.zoom.training import fingerprint
    from crawlers.shop.catalogue import LABELLED_FINGERPRINT

    if fingerprint(read_table(folder, LABELLED, "zoom_train", ["image_id", "label"])) == LABELLED_FINGERPRINT:
        raise InputError(
            f"{folder}: expected labelled images of your own catalogue for zoom.filter: trained, got the grey "
            "images of the demo. In params.yaml, set zoom.filter: photographs, or zoom.enabled: false, or set "
            "zoom_train.labelled to a folder of your own labelled images"
        )
