"""Starts a new crawl by writing a new crawl.snapshot to params.yaml: DVC then runs the stage crawl again.

``dvc repro`` alone keeps the snapshot that params.yaml names; checking out an old commit restores its snapshot.

If the crawl fails, the new name stays in params.yaml: the next run resumes that crawl and requests no page twice,
whether it is started by hand (``dvc repro``) or, within `RESUME_WITHIN`, by the schedule. Later than that, the schedule
starts another crawl, so that no snapshot mixes pages of many days; pages of the failed one are then revalidated.
"""

import re
from datetime import UTC, datetime, timedelta

from atlas_model.core.errors import AtlasError
from atlas_model.core.params import load_params, set_snapshot
from atlas_model.core.progress import say
from flows.dvc import repo
from flows.monitoring import drift
from flows.paths import SNAPSHOTS

RESUME_WITHIN = timedelta(hours=12)  # after its start, an unfinished crawl is resumed
NAME = "%Y-%m-%dT%H%M%SZ"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z")


def start_new_crawl(now: datetime) -> tuple[str, str]:
    """Write a new crawl.snapshot to params.yaml, or resume an unfinished crawl.

    Args:
        now: the time, with its timezone.

    Returns:
        The snapshot of the current data, from dvc.lock, as a failed crawl leaves no data to compare with; and the one
        that params.yaml now names.

    Raises:
        ParamsError: params.yaml is not valid, or its crawl.snapshot cannot be replaced; the file is unchanged.
    """
    params = load_params()
    named = params.crawl.snapshot
    done = repo.locked_snapshot() or named
    begun = _started_at(named)
    if named != done and begun is not None and timedelta(0) <= now - begun < RESUME_WITHIN:
        say(f"recrawl: the crawl {named} is unfinished: resuming it")
        return done, named
    if named == done:
        try:
            drift.save_profile_before_recrawl(params)
        except AtlasError as error:  # not a reason to skip the crawl
            say(f"warning: recrawl: the comparison of the new crawl with {done} may be incomplete: {error}")
    new = _name(now, {named, done, *(path.stem for path in SNAPSHOTS.glob("*.parquet"))})
    set_snapshot(new)
    return done, new


def _name(now: datetime, known: set[str]) -> str:
    """A timestamp that is later than all timestamps in ``known``, even if the clock was set back."""
    times = [
        now.astimezone(UTC),
        *(begun + timedelta(seconds=1) for begun in map(_started_at, known) if begun is not None),
    ]
    return max(times).strftime(NAME)


def _started_at(snapshot: str) -> datetime | None:
    """The start of the crawl, if its name is a timestamp."""
    if not TIMESTAMP.fullmatch(snapshot):
        return None
    try:
        return datetime.strptime(snapshot, NAME).replace(tzinfo=UTC)
    except ValueError:  # the 31st of June
        return None
