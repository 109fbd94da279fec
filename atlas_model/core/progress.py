"""Progress of long jobs, as a bar on a terminal or lines in a log, and through a callback.

The callback is a function ``watch(step: Step) -> None``. The environment variable ``ATLAS_WATCHER`` names it as
``package.module:function``.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from tqdm import tqdm

from atlas_model.core.errors import without_credentials

WATCHER = "ATLAS_WATCHER"
LINE_INTERVAL_S = 5.0  # minimum time between two log lines of a job

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """Progress of a job: ``done`` of ``total`` (None: unknown) ``unit``s, with figures such as the loss.

    ``epoch``, of a job that has several: the number of this one, from 1, and the maximum.
    """

    job: str
    done: int
    total: int | None
    unit: str
    figures: dict[str, float | int | str]
    finished: bool
    epoch: tuple[int, int] | None = None

    @property
    def share(self) -> float:
        """Share of the job that is done, range [0, 1]; 0 while unknown."""
        share = min(1.0, self.done / self.total) if self.total else float(self.finished)
        return share if self.epoch is None else (self.epoch[0] - 1 + share) / self.epoch[1]


def say(line: str) -> None:
    """Print a line on stderr, without credentials of URLs; stdout is for results."""
    with tqdm.external_write_mode(file=sys.stderr):
        sys.stderr.write(f"{without_credentials(line)}\n")
        sys.stderr.flush()


class Progress:
    """The progress of one job, as a context manager. `advance` may be called at any rate."""

    def __init__(
        self, job: str, total: int | None = None, unit: str = "items", epoch: tuple[int, int] | None = None
    ) -> None:
        self.job, self.total, self.unit, self.epoch = job, total, unit, epoch
        self.done = 0
        self.figures: dict[str, float | int | str] = {}
        self._watch = _watcher()
        self._reported_at = time.monotonic()
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=self.total, desc=_name(self.job, self.epoch), unit=f" {self.unit}", dynamic_ncols=True
            )
        return self

    def advance(self, count: int = 1, **figures: float | int | str) -> None:
        """Add ``count``; ``figures`` (a loss, a rate) are shown beside the count."""
        self.done += count
        self.figures.update(figures)
        if self._bar is not None:
            self._bar.update(count)
            if figures:
                self._bar.set_postfix(self.figures)
        if time.monotonic() - self._reported_at >= LINE_INTERVAL_S:
            self._report(finished=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if kind is None:
            self._report(finished=True)

    def _report(self, *, finished: bool) -> None:
        self._reported_at = time.monotonic()
        step = Step(self.job, self.done, self.total, self.unit, dict(self.figures), finished, self.epoch)
        if self._bar is None:
            say(describe(step))
        self._watch(step)


def track(items: Iterable[T], job: str, total: int | None = None, unit: str = "items") -> Iterator[T]:
    """Yield ``items`` and show their progress as ``job``."""
    with Progress(job, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def describe(step: Step) -> str:
    """Format ``step`` as a line."""
    count = f"{step.done}" if step.total is None else f"{step.done}/{step.total}"
    figures = "".join(
        f", {name} {value:.4g}" if isinstance(value, float) else f", {name} {value}"
        for name, value in step.figures.items()
    )
    return f"{_name(step.job, step.epoch)}: {count} {step.unit}{figures}{', done' if step.finished else ''}"


def _name(job: str, epoch: tuple[int, int] | None) -> str:
    return job if epoch is None else f"{job} epoch {epoch[0]}/{epoch[1]}"


def _watcher() -> Callable[[Step], None]:
    name = os.environ.get(WATCHER)
    if not name:
        return lambda step: None
    module, _, function = name.partition(":")
    watch: Callable[[Step], None] = getattr(importlib.import_module(module), function)
    return watch
