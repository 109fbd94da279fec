"""A new crawl: a new name in params.yaml, which is all that DVC needs to crawl again.

``dvc repro`` alone keeps the crawl that params.yaml names; going back to an old commit brings its crawl back.

The new name stays in params.yaml where the crawl then fails, because it is the name of the work that is in progress:
the next run goes on with it, asking for nothing twice, whether it is started by hand (``dvc repro``) or, within
`RESUME_WITHIN`, by the schedule. Later the schedule begins another crawl, so that one crawl is not put together from
the pages of many days; what the failed one has read is then asked for anew only where it has changed.

Knows nothing of crawling, nor of who calls it when.
"""

import re
from datetime import UTC, datetime, timedelta

from atlas_model.core.errors import AtlasError
from atlas_model.core.params import load_params, set_snapshot
from atlas_model.core.progress import say
from flows.dvc import repo
from flows.monitoring import drift
from flows.paths import SNAPSHOTS

RESUME_WITHIN = timedelta(hours=12)  # of its beginning, a crawl that has not ended is gone on with
NAME = "%Y-%m-%dT%H%M%SZ"
NAMED_SO = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z")


def start_new_crawl(now: datetime) -> tuple[str, str]:
    """Name a new crawl in params.yaml, or go on with one that has begun and not ended.

    Args:
        now: when, with its timezone.

    Returns:
        The crawl that the data are of, and the one that params.yaml now names. The first is what dvc.lock says: a
        crawl that failed has left no data to compare with.

    Raises:
        ParamsError: params.yaml is not valid, or names its crawl in a form that cannot be replaced; it is as before.
    """
    params = load_params()
    named = params.crawl.snapshot
    done = repo.locked_snapshot() or named
    begun = _begun(named)
    if named != done and begun is not None and timedelta(0) <= now - begun < RESUME_WITHIN:
        say(f"recrawl: {named} has not ended: going on with it")
        return done, named
    if named == done:
        try:
            drift.remember_before_another(params)
        except AtlasError as error:  # no reason not to crawl
            say(f"warning: recrawl: the new crawl may not be compared with {done} in all respects: {error}")
    new = _name(now, {named, done, *(path.stem for path in SNAPSHOTS.glob("*.parquet"))})
    set_snapshot(new)
    return done, new


def _name(now: datetime, known: set[str]) -> str:
    """A name later than those of ``known`` that are times, whatever the clock says."""
    times = [now.astimezone(UTC), *(begun + timedelta(seconds=1) for begun in map(_begun, known) if begun is not None)]
    return max(times).strftime(NAME)


def _begun(snapshot: str) -> datetime | None:
    """When the crawl began, if its name says so."""
    if not NAMED_SO.fullmatch(snapshot):
        return None
    try:
        return datetime.strptime(snapshot, NAME).replace(tzinfo=UTC)
    except ValueError:  # the 31st of June
        return None
