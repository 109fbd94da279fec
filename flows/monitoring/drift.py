"""How far two crawls are apart: the report for people, and the profiles of crawls that it compares.

A crawl's profile is made when its data are on disk and kept in `PROFILES`. Where it is not there any more (`make
clean`, a new clone), git's history and DVC's cache still have the crawl's products, but to fetch a whole crawl's
images for a report would be too much: what concerns them is then left out, with a line that says so.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from atlas_model.core.errors import CheckpointError, InputError
from atlas_model.core.files import write_json, write_text
from atlas_model.core.params import Params
from atlas_model.core.progress import say
from atlas_model.data.schemas import IMAGES, iterate_shards, read_table
from atlas_model.data.schemas import PRODUCTS as SCHEMA
from atlas_model.drift.distances import Figure, compare
from atlas_model.drift.profile import PRODUCT_COLUMNS, CrawlProfile
from flows.dvc import repo
from flows.monitoring.drift_report import as_markdown
from flows.monitoring.snapshots import products_of
from flows.paths import PRODUCTS, SHARDS, SNAPSHOTS, WORK
from flows.registry.model_folders import CHAMPION, shipped_model

PROFILES = WORK / "profiles"  # <snapshot>.json
REPORTS = Path("reports/drift")
FORMAT = 1  # of the profiles: raise it when an older one can no longer be compared
BATCH = 100  # images read at once
MOST_KEPT = 100  # crawls: a quarter of a year, if there is one a night


@dataclass(frozen=True)
class DriftReport:
    """What became of a comparison."""

    markdown: str
    drifted: list[str]  # names of the figures beyond their thresholds
    path: Path  # of the markdown; the same as JSON beside it


def report_drift(old: str, new: str, params: Params) -> DriftReport | None:
    """Write how far the crawls ``old`` and ``new`` are apart; None where ``old`` is not known any more.

    Where params.yaml names ``new``, it is compared as it is on disk: every stage must be up to date.

    Raises:
        InputError: ``new`` is not known.
    """
    try:
        before = _profile_of(old)
    except InputError as error:
        say(f"drift: nothing to compare with: {error}")
        return None
    return _report((old, before), (new, _present_or_kept(new, params)), params)


def compare_crawls(old: str, new: str, params: Params) -> DriftReport:
    """As `report_drift`, for people who name the crawls.

    Raises:
        InputError: one of them is not known; the text names those that are.
    """
    return _report((old, _present_or_kept(old, params)), (new, _present_or_kept(new, params)), params)


def remember(params: Params) -> None:
    """Keep the profile of the crawl that the data are of, for comparisons with later ones.

    To be called when a run has come to its end, after a promotion: images are compared as the champion of the next
    run sees them, which is the one of this run's end. Costs milliseconds where nothing has changed since the last call.
    Of the crawls, and of the copies of their products, the last `MOST_KEPT` stay: git and DVC have those of versions.
    """
    if PRODUCTS.is_file() and SHARDS.is_dir():
        _remembered(params)
        for folder in (PROFILES, SNAPSHOTS):
            for path in sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime_ns)[:-MOST_KEPT]:
                path.unlink()


def remember_before_another(params: Params) -> None:
    """`remember` the crawl that the data are of, as it is about to be replaced by the one to be compared with it.

    A run of the flow has done so at its end, unless there was none (a shell's `dvc repro`), or another model has become
    the champion since.

    Raises:
        AtlasError: another dvc command is at work, or this is not the project that it should be.
    """
    of_a_later_run = bool(_kept()) and last_remembered() != params.crawl.snapshot  # that has not come to its end
    if PRODUCTS.is_file() and not of_a_later_run and repo.is_up_to_date("fetch"):
        remember(params)


def last_remembered() -> str | None:
    """The crawl that the next one is to be compared with: that of the last run that came to its end.

    Where nothing is remembered (`make clean`, a new clone), that of the last commit.
    """
    kept = _kept()
    return max(kept, key=lambda name: kept[name].stat().st_mtime_ns) if kept else repo.committed_snapshot()


def _report(old: tuple[str, CrawlProfile], new: tuple[str, CrawlProfile], params: Params) -> DriftReport:
    figures = compare(old[1], new[1], **params.drift.model_dump(exclude={"sample"}))
    markdown = as_markdown(old, new, figures)
    path = REPORTS / f"{old[0]}..{new[0]}.md"
    write_json(path.with_name(f"{old[0]}..{new[0]}.json"), _as_json(old, new, figures))
    write_text(path, markdown)
    return DriftReport(markdown, [figure.name for figure in figures if figure.drifted], path)


def _as_json(old: tuple[str, CrawlProfile], new: tuple[str, CrawlProfile], figures: list[Figure]) -> dict[str, Any]:
    categories = sorted({*old[1].categories, *new[1].categories})
    return {
        "old": old[0],
        "new": new[0],
        "figures": [asdict(figure) | {"drifted": figure.drifted} for figure in figures],
        "categories": {name: [profile.categories.get(name, 0) for _, profile in (old, new)] for name in categories},
    }


def _present_or_kept(snapshot: str, params: Params) -> CrawlProfile:
    """The profile of ``snapshot``, from the data themselves where they are of it."""
    if snapshot == params.crawl.snapshot == repo.locked_snapshot() and PRODUCTS.is_file() and SHARDS.is_dir():
        return _remembered(params)
    return _profile_of(snapshot)


def _profile_of(snapshot: str) -> CrawlProfile:
    path = _kept().get(snapshot)
    profile = path and _read(path)
    return profile[1] if profile else CrawlProfile.of(products_of(snapshot, PRODUCT_COLUMNS))


def _remembered(params: Params) -> CrawlProfile:
    """The profile of what is on disk, from the file where that has not changed since."""
    model = _model()
    path, state = PROFILES / f"{params.crawl.snapshot}.json", _state(model, params)
    kept = _read(path)
    if kept is not None and kept[0] == state:
        os.utime(path)  # it is that of the last run again
        return kept[1]
    profile = _present(model, params.drift.sample)
    write_json(path, {"format": FORMAT, "state": state, "profile": profile.to_json()})
    return profile


def _present(model: Path, sample: int) -> CrawlProfile:
    from atlas_model.core.checkpoint import DESCRIPTION, WEIGHTS  # torch, which takes seconds
    from atlas_model.data.dataset import content_key
    from atlas_model.drift.embedding import embed

    sizes = read_table(SHARDS, IMAGES, "fetch", ("width", "height"))
    # The shards are sorted by the images' own hashes: the first are as good as drawn by lot, and as far as both
    # crawls have them they are the same in both.
    batches = iterate_shards(SHARDS, IMAGES, "fetch", BATCH)
    images = chain.from_iterable(batch["bytes"].to_pylist() for batch in batches)
    encoder = embeddings = None
    try:
        embeddings = embed(model, islice(images, sample))
        encoder = content_key([model / DESCRIPTION, model / WEIGHTS])
    except CheckpointError as error:  # what to do about it is the promotion's to say
        say(f"warning: drift: no model has seen the images: {error}")
    return CrawlProfile.of(
        read_table(PRODUCTS, SCHEMA, "crawl", PRODUCT_COLUMNS),
        image_sizes=sizes["width"].to_numpy().astype("int64") * sizes["height"].to_numpy(),
        encoder=encoder,
        embeddings=embeddings,
    )


def _model() -> Path:
    return CHAMPION if CHAMPION.is_dir() else shipped_model()


def _state(model: Path, params: Params) -> str:
    """A key of all that a profile is made of, without reading it."""
    files = [PRODUCTS, *sorted(SHARDS.iterdir()), *sorted(model.iterdir())]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((stats, params.drift.sample)).encode()).hexdigest()


def _kept() -> dict[str, Path]:
    return {path.stem: path for path in PROFILES.glob("*.json")}


def _read(path: Path) -> tuple[str, CrawlProfile] | None:
    """The state and the profile in ``path``; nothing where it is missing, damaged or of another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            return None
        return content["state"], CrawlProfile.from_json(content["profile"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
