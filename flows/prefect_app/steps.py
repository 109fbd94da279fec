"""The steps of the flow around the stages, as plain functions: what is done, and what there is to tell of it.

Knows nothing of Prefect, nor of how the stages are run.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from atlas_model.core.files import write_text
from atlas_model.core.params import PARAMS_FILE, Params
from flows.paths import WORK
from flows.registry.model_folders import CHAMPION

JUDGED = WORK / "judged"
CHAMPIONS = Path("models/champions.json")


@dataclass(frozen=True)
class StepResult:
    """What a step did."""

    message: str  # a line
    markdown: str = ""  # a report
    done: bool = True  # False: there was nothing to do
    accepted: bool = False  # the run's model is the champion: the run is worth a version
    news: str = ""  # for people elsewhere, if somebody should be told


NOTHING = StepResult("nothing to do", done=False)


def recrawl() -> StepResult:
    """Name a new crawl in params.yaml; the stages do the rest."""
    from flows.monitoring.recrawl import start_new_crawl

    old, new = start_new_crawl(datetime.now(UTC))
    return StepResult(f"{new}, after {old}")


def drift(params: Params) -> StepResult:
    """Report how far the crawl is from that of the last run that came to its end."""
    from flows.monitoring.drift import last_profiled_snapshot, report_drift

    old, new = last_profiled_snapshot(), params.crawl.snapshot
    report = report_drift(old, new, params) if old not in (None, new) else None
    if report is None:
        return NOTHING
    return StepResult(f"beyond the thresholds: {', '.join(report.drifted) or 'nothing'}", report.markdown)


def promote(params: Params) -> StepResult:
    """Decide whether the run's model becomes the champion."""
    from flows.registry.promote import promote

    decision = promote(params)
    news = f"atlas: {decision.reason}" if decision.promoted and params.notify.on_promotion else ""
    return StepResult(decision.reason, decision.markdown, decision.changed, decision.accepted, news)


def commit(params: Params) -> StepResult:
    """Make an accepted run a commit with a tag."""
    from flows.registry.versions import commit_run

    version = commit_run(params, f"Accepted run of crawl {params.crawl.snapshot}")
    if version is None:
        return NOTHING
    return StepResult(f"{version.tag}: commit {version.commit[:8]} on {version.branch}")


def notify(text: str, params: Params) -> StepResult:
    """Tell people elsewhere; that they could not be reached is a warning in the log."""
    from flows.monitoring.notify import notify

    notify(text, params)
    return StepResult(text)


def is_judged() -> bool:
    """Whether all is as the last run left it that came to its end, so that there is nothing to judge."""
    return JUDGED.is_file() and JUDGED.read_text(encoding="utf-8") == _state()


def remember(params: Params) -> None:
    """The run has come to its end: what it found is what the next one is compared with."""
    from flows.monitoring.drift import remember

    remember(params)
    write_text(JUDGED, _state())


def _state() -> str:
    paths = [Path("dvc.lock"), PARAMS_FILE, CHAMPIONS]
    contents = [path.read_bytes() if path.is_file() else b"" for path in paths]
    return hashlib.sha256(repr([*contents, CHAMPION.is_dir()]).encode()).hexdigest()
