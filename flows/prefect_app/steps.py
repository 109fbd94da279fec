"""The steps of the flow before and after the stages, as functions: recrawl, drift, promote, commit, notify."""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_model.core.files import write_text
from atlas_model.core.params import PARAMS_FILE, Params
from flows.paths import CHAMPION, LOCK_FILE, WORK
from flows.prefect_app.ui.summary import short

if TYPE_CHECKING:
    from flows.registry.promote import Decision

LAST_RUN = WORK / "judged"
CHAMPIONS = Path("models/champions.json")
# A line of the error of a crawl that read shops worse than the last accepted one (`crawlers.crawl.health`).
DROP = re.compile(r"^\s*- (\S+): (.+ fell from .+)$", re.MULTILINE)


@dataclass(frozen=True)
class RunEvent:
    """An event for Prefect's event feed and automations; names and ids get the prefix ``atlas.``."""

    name: str
    resource: str  # id of what has changed
    resource_name: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class StepResult:
    """The result of a step."""

    message: str  # one line
    markdown: str = ""  # report
    done: bool = True  # False: there was nothing to do
    accepted: bool = False  # the model of the run is the champion, so the run is committed as a version
    news: str = ""  # text of a notification; empty: none
    summary: str = ""  # a few words for the message of the run; empty: none
    tags: tuple[str, ...] = ()  # for the run
    events: tuple[RunEvent, ...] = field(default=())


NOTHING = StepResult("nothing to do", done=False)


def recrawl() -> StepResult:
    """Write a new snapshot to params.yaml, which makes DVC run the stage crawl."""
    from flows.monitoring.recrawl import start_new_crawl

    old, new = start_new_crawl(datetime.now(UTC))
    return StepResult(f"{new}, after {old}")


def drift(params: Params) -> StepResult:
    """Report the drift from the crawl of the last completed run."""
    from flows.monitoring.drift import last_profiled_snapshot, report_drift

    old, new = last_profiled_snapshot(), params.crawl.snapshot
    report = report_drift(old, new, params) if old not in (None, new) else None
    if report is None:
        return NOTHING
    found = ", ".join(report.drifted)
    message = f"above the thresholds: {found or 'nothing'}"
    if not found:
        return StepResult(message, report.markdown)
    payload = {"old": old, "new": new, "drifted": report.drifted, "figures": report.figures, "report": str(report.path)}
    event = RunEvent("drift", f"crawl.{new}", f"crawl {new}", payload)
    return StepResult(message, report.markdown, summary=f"drift in {found}", tags=("drift",), events=(event,))


def promote(params: Params) -> StepResult:
    """Promote the model of the run if it is non-inferior."""
    from flows.registry.promote import promote

    decision = promote(params)
    news = f"atlas: {decision.reason}" if decision.promoted and params.notify.on_promotion else ""
    tags = [name for name, holds in (("accepted", decision.accepted), ("promoted", decision.promoted)) if holds]
    return StepResult(
        decision.reason,
        decision.markdown,
        decision.changed,
        decision.accepted,
        news,
        summary=_promotion_summary(decision),
        tags=tuple(tags),
        events=_promotion_events(decision),
    )


def _promotion_summary(decision: "Decision") -> str:
    """``(+.004 to version 3); promoted to version 4``."""
    if not decision.changed:
        return f"(the model is the champion already, version {decision.version})"
    change = ""
    if decision.change is not None:
        change = f"({short(decision.change, signed=True)} to version {decision.replaced} on the validation split); "
    return change + (
        f"promoted to version {decision.version}"
        if decision.promoted
        else f"not promoted: version {decision.version} stays"
    )


def _promotion_events(decision: "Decision") -> tuple[RunEvent, ...]:
    if not decision.promoted:
        return ()
    payload = {
        "version": decision.version,
        "replaced": decision.replaced,
        "change": decision.change,
        "figures": decision.figures,
        "reason": decision.reason,
    }
    return (RunEvent("promoted", "champion", f"version {decision.version}", payload),)


def degraded_crawl(message: str, snapshot: str) -> RunEvent | None:
    """The event on a crawl that failed because shops were read worse than before; None for other failures.

    Args:
        message: of the failed stage crawl.
        snapshot: of the crawl.
    """
    shops: dict[str, list[str]] = {}
    for shop, drop in DROP.findall(message):
        shops.setdefault(shop, []).append(drop)
    if not shops:
        return None
    payload = {"snapshot": snapshot, "shops": shops, "reason": message}
    return RunEvent("crawl.degraded", f"crawl.{snapshot}", f"crawl {snapshot}", payload)


def commit(params: Params) -> StepResult:
    """Commit and tag an accepted run."""
    from flows.registry.versions import commit_run

    version = commit_run(params, f"Accepted run of crawl {params.crawl.snapshot}")
    if version is None:
        return NOTHING
    return StepResult(f"{version.tag}: commit {version.commit[:8]} on {version.branch}")


def notify(text: str, params: Params) -> StepResult:
    """Send a notification; a failure is a warning in the log."""
    from flows.monitoring.notify import notify

    notify(text, params)
    return StepResult(text)


def is_unchanged() -> bool:
    """Whether nothing has changed since the last completed run, so that there is nothing to promote."""
    return LAST_RUN.is_file() and LAST_RUN.read_text(encoding="utf-8") == _fingerprint()


def record_run(params: Params) -> None:
    """Record the completed run, with which the next one is compared."""
    from flows.monitoring.drift import save_profile

    save_profile(params)
    write_text(LAST_RUN, _fingerprint())


def _fingerprint() -> str:
    paths = [LOCK_FILE, PARAMS_FILE, CHAMPIONS]
    contents = [path.read_bytes() if path.is_file() else b"" for path in paths]
    return hashlib.sha256(repr([*contents, CHAMPION.is_dir()]).encode()).hexdigest()
