"""Describes the result of a run: the message of its final state, and the page "summary" with links.

Does not import Prefect.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.paths import REPORT
from flows.prefect_app.server import REPORT_URL
from flows.stages.entry import read_metrics
from flows.text import in_markdown

UP_TO_DATE = "every stage is up to date"
CACHED, RAN = "up to date", "done"


@dataclass
class RunRecord:
    """What a run has done so far."""

    tasks: list[tuple[str, str, float]] = field(default_factory=list)  # task, result, seconds
    ran: list[str] = field(default_factory=list)  # stages that were not up to date
    results: list[str] = field(default_factory=list)  # of the final steps, a few words each
    missed: list[str] = field(default_factory=list)  # times of the schedule without a run

    @contextmanager
    def timed(self, task: str) -> Iterator[list[str]]:
        """Record ``task`` with its duration; the block appends its result to the yielded list."""
        begun, result = time.monotonic(), ["failed"]
        try:
            yield result
        finally:
            self.tasks.append((task, result[-1], time.monotonic() - begun))

    @property
    def message(self) -> str:
        """The result of a completed run in one line."""
        if not self.ran and not self.results:
            return UP_TO_DATE
        if not self.results:
            return f"ran {', '.join(self.ran)}"
        results = "; ".join(self.results)
        headline = headline_of(read_metrics("evaluate"))
        if not headline:
            return results
        return f"{headline} {results}" if results.startswith("(") else f"{headline}; {results}"


def headline_of(metrics: dict[str, Any]) -> str:
    """``micro F .896``, on the test split; empty without an evaluation."""
    test = metrics.get("test")
    value = test.get("micro_f1") if isinstance(test, dict) else None
    return f"micro F {short(value)}" if isinstance(value, int | float) else ""


def short(value: float, *, signed: bool = False) -> str:
    """A metric in [-1, 1] with three decimal places, without the zero before the point."""
    return f"{value:{'+' if signed else ''}.3f}".replace("0.", ".", 1)


def summary(record: RunRecord, message: str) -> str:
    """The page on the run, as Markdown."""
    lines = [f"**{in_markdown(line)}**" if number == 0 else in_markdown(line) for number, line in _numbered(message)]
    lines = ["  \n".join(lines), ""]
    if record.missed:
        lines += [f"{missed_text(record.missed)}. This run replaces them.", ""]
    lines += ["| task | time | result |", "|---|--:|---|"]
    lines += [
        f"| {in_markdown(name)} | {_took(seconds)} | {in_markdown(done)} |" for name, done, seconds in record.tasks
    ]
    return "\n".join([*lines, "", *_links()]) + "\n"


def missed_text(times: Sequence[str], most: int = 20) -> str:
    """``3 times of the schedule were missed: ...``."""
    shown = ", ".join(times[:most]) + (f" and {len(times) - most} more" if len(times) > most else "")
    verb = "time of the schedule was" if len(times) == 1 else "times of the schedule were"
    return f"{len(times)} {verb} missed: {shown}"


def _numbered(message: str) -> list[tuple[int, str]]:
    return list(enumerate(filter(str.strip, message.splitlines())))


def _links() -> list[str]:
    lines = []
    if REPORT.is_file():
        url, path = os.environ.get(REPORT_URL), REPORT.absolute()
        link = f"[Open the report of the last run]({url}), which is the file" if url else "The report is the file"
        lines.append(f"- {link} `{_in_code(path)}`.")
    lines.append("- To correct labels and close-ups in the browser, run `atlas review` in the project's folder")
    lines[-1] += f" (`{_in_code(Path.cwd())}`). It prints the address of its page."
    return lines


def _took(seconds: float) -> str:
    return f"{seconds:.1f}\N{NO-BREAK SPACE}s" if seconds < 60 else f"{seconds / 60:.1f}\N{NO-BREAK SPACE}min"


def _in_code(path: Path) -> str:
    return str(path).replace("`", "'")
