"""Measures the drift between two crawls from their profiles, and writes the report.

The profile of a crawl is computed while its data are on disk and kept in `PROFILES`. If it is missing (`make clean`, a
new clone), it is computed from the products in git's history and DVC's cache. Images are not downloaded for that: the
distances of images are then omitted, with a note in the report.
"""

import hashlib
import os
import time
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from atlas_model.core.checksums import SUFFIX, read_json_with_checksum, remove_with_checksum, write_json_with_checksum
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
from flows.paths import CHAMPION, PRODUCTS, SHARDS, SNAPSHOTS, WORK
from flows.registry.model_folders import bundled_model

PROFILES = WORK / "profiles"  # <snapshot>.json
REPORTS = Path("reports/drift")
FORMAT = 1  # of the profiles: increase it when older ones can no longer be compared
BATCH = 100  # images read at once
MAX_KEPT = 100  # crawls: three months of nightly ones


@dataclass(frozen=True)
class DriftReport:
    """The result of a comparison."""

    markdown: str
    drifted: list[str]  # names of the distances above their thresholds
    path: Path  # of the markdown; the JSON file is beside it
    figures: dict[str, dict[str, float | None]] = field(default_factory=dict)  # name -> distance, chance, threshold


def report_drift(old: str, new: str, params: Params) -> DriftReport | None:
    """Write the drift from the snapshot ``old`` to ``new``; None if ``old`` is no longer available.

    If params.yaml names ``new``, the data on disk are compared: every stage must be up to date.

    Raises:
        InputError: ``new`` is unknown.
    """
    try:
        before = _stored_profile(old)
    except InputError as error:
        say(f"drift: nothing to compare with: {error}")
        return None
    return _report((old, before), (new, _current_or_stored_profile(new, params)), params)


def compare_crawls(old: str, new: str, params: Params) -> DriftReport:
    """As `report_drift`, but an unknown snapshot is an error.

    Raises:
        InputError: a snapshot is unknown; the text names the known ones.
    """
    return _report(
        (old, _current_or_stored_profile(old, params)), (new, _current_or_stored_profile(new, params)), params
    )


def save_profile(params: Params) -> None:
    """Store the profile of the current crawl, for comparisons with later ones.

    To be called at the end of a run, after the promotion: the next run computes embeddings with the champion of the end
    of this run. Takes milliseconds if nothing has changed since the last call. The last `MAX_KEPT` profiles and
    snapshots are kept; git and DVC have those of all committed versions.
    """
    if PRODUCTS.is_file() and SHARDS.is_dir():
        _profile_on_disk(params)
        for folder in (PROFILES, SNAPSHOTS):
            kept = [path for path in folder.glob("*") if path.suffix != SUFFIX]
            for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns)[:-MAX_KEPT]:
                if path.stem != params.crawl.snapshot:  # the clock may have been set back before it was written
                    remove_with_checksum(path)


def save_profile_before_recrawl(params: Params) -> None:
    """`save_profile` of the current crawl before a new crawl replaces its data.

    A run of the flow has done so at its end, unless the data come from `dvc repro` in a shell, or another model has
    become the champion since.

    Raises:
        AtlasError: another dvc command is running, or this folder is not a DVC project.
    """
    of_a_later_run = bool(_profile_files()) and last_profiled_snapshot() != params.crawl.snapshot  # which has not ended
    if PRODUCTS.is_file() and not of_a_later_run and repo.is_up_to_date("fetch"):
        save_profile(params)


def last_profiled_snapshot() -> str | None:
    """The snapshot that the next crawl is compared with: that of the last completed run.

    Without stored profiles (`make clean`, a new clone), that of the last commit.
    """
    kept = _profile_files()
    return max(kept, key=lambda name: kept[name].stat().st_mtime_ns) if kept else repo.committed_snapshot()


def _report(old: tuple[str, CrawlProfile], new: tuple[str, CrawlProfile], params: Params) -> DriftReport:
    figures = compare(old[1], new[1], **params.drift.model_dump(exclude={"sample"}))
    markdown = as_markdown(old, new, figures)
    path = REPORTS / f"{old[0]}..{new[0]}.md"
    write_json(path.with_name(f"{old[0]}..{new[0]}.json"), _as_json(old, new, figures))
    write_text(path, markdown)
    shown = {
        each.name: {"distance": each.distance, "chance": each.chance, "threshold": each.threshold} for each in figures
    }
    return DriftReport(markdown, [figure.name for figure in figures if figure.drifted], path, shown)


def _as_json(old: tuple[str, CrawlProfile], new: tuple[str, CrawlProfile], figures: list[Figure]) -> dict[str, Any]:
    categories = sorted({*old[1].categories, *new[1].categories})
    return {
        "old": old[0],
        "new": new[0],
        "figures": [asdict(figure) | {"drifted": figure.drifted} for figure in figures],
        "categories": {name: [profile.categories.get(name, 0) for _, profile in (old, new)] for name in categories},
    }


def _current_or_stored_profile(snapshot: str, params: Params) -> CrawlProfile:
    """The profile of ``snapshot``, from the data on disk if these belong to it."""
    if snapshot == params.crawl.snapshot == repo.locked_snapshot() and PRODUCTS.is_file() and SHARDS.is_dir():
        return _profile_on_disk(params)
    return _stored_profile(snapshot)


def _stored_profile(snapshot: str) -> CrawlProfile:
    path = _profile_files().get(snapshot)
    profile = path and _read(path)
    return profile[1] if profile else CrawlProfile.of(products_of(snapshot, PRODUCT_COLUMNS))


def _profile_on_disk(params: Params) -> CrawlProfile:
    """The profile of the data on disk, read from its file if they have not changed since."""
    model = _model()
    path, state = PROFILES / f"{params.crawl.snapshot}.json", _state(model, params)
    kept = _read(path)
    if kept is not None and kept[0] == state:
        _mark_last(path)
        return kept[1]
    profile = _compute_profile(model, params.drift.sample)
    write_json_with_checksum(path, {"format": FORMAT, "state": state, "profile": profile.to_json()})
    _mark_last(path)
    return profile


def _mark_last(path: Path) -> None:
    """Mark ``path`` as the profile of the last run: with the latest time of all, also if the clock was set back."""
    others = [other.stat().st_mtime_ns for other in _profile_files().values() if other != path]
    latest = max([time.time_ns(), *(time_ns + 1 for time_ns in others)])
    os.utime(path, ns=(latest, latest))


def _compute_profile(model: Path, sample: int) -> CrawlProfile:
    from atlas_model.core.checkpoint import DESCRIPTION, WEIGHTS  # torch, which takes seconds
    from atlas_model.data.dataset import content_key
    from atlas_model.drift.embedding import embed

    sizes = read_table(SHARDS, IMAGES, "fetch", ("width", "height"))
    # The shards are sorted by the hashes of the images, so the first ones are a random sample, which mostly consists of
    # the same images in both crawls.
    batches = iterate_shards(SHARDS, IMAGES, "fetch", BATCH)
    images = chain.from_iterable(batch["bytes"].to_pylist() for batch in batches)
    encoder = embeddings = None
    try:
        embeddings = embed(model, islice(images, sample))
        encoder = content_key([model / DESCRIPTION, model / WEIGHTS])
    except CheckpointError as error:  # the step promote reports the remedy
        say(f"warning: drift: no embeddings of the images: {error}")
    return CrawlProfile.of(
        read_table(PRODUCTS, SCHEMA, "crawl", PRODUCT_COLUMNS),
        image_sizes=sizes["width"].to_numpy().astype("int64") * sizes["height"].to_numpy(),
        encoder=encoder,
        embeddings=embeddings,
    )


def _model() -> Path:
    return CHAMPION if CHAMPION.is_dir() else bundled_model()


def _state(model: Path, params: Params) -> str:
    """Fingerprint of the data and the model of a profile, from the sizes and times of the files."""
    files = [PRODUCTS, *sorted(SHARDS.iterdir()), *sorted(model.iterdir())]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((stats, params.drift.sample)).encode()).hexdigest()


def _profile_files() -> dict[str, Path]:
    return {path.stem: path for path in PROFILES.glob("*.json")}


def _read(path: Path) -> tuple[str, CrawlProfile] | None:
    """The fingerprint and the profile in ``path``; None if it is missing, damaged or of another format."""
    try:
        content = read_json_with_checksum(path)
        if content["format"] != FORMAT:
            return None
        return content["state"], CrawlProfile.from_json(content["profile"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"drift: {path}: damaged, so it is computed again: {error}")
        return None
