"""The steps of the flow before and after the stages, as functions: recrawl, drift, promote, commit, notify."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from atlas_model.core.files import write_text
from atlas_model.core.params import PARAMS_FILE, Params
from flows.paths import WORK
from flows.registry.model_folders import CHAMPION

LAST_RUN = WORK / "judged"
CHAMPIONS = Path("models/champions.json")


@dataclass(frozen=True)
class StepResult:
    """The result of a step."""

    message: str  # one line
    markdown: str = ""  # report
    done: bool = True  # False: there was nothing to do
    accepted: bool = False  # the model of the run is the champion, so the run is committed as a version
    news: str = ""  # text of a notification; empty: none


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
    return StepResult(f"above the thresholds: {', '.join(report.drifted) or 'nothing'}", report.markdown)


def promote(params: Params) -> StepResult:
    """Promote the model of the run if it is non-inferior."""
    from flows.registry.promote import promote

    decision = promote(params)
    news = f"atlas: {decision.reason}" if decision.promoted and params.notify.on_promotion else ""
    return StepResult(decision.reason, decision.markdown, decision.changed, decision.accepted, news)


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
    paths = [Path("dvc.lock"), PARAMS_FILE, CHAMPIONS]
    contents = [path.read_bytes() if path.is_file() else b"" for path in paths]
    return hashlib.sha256(repr([*contents, CHAMPION.is_dir()]).encode()).hexdigest()
