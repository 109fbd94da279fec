"""Progress of long jobs: log lines in a pipe, a progress bar on a terminal."""

import io
import sys

import pytest

from atlas_model.core import progress
from atlas_model.core.progress import WATCHER, Progress, Step, say, track

seen: list[Step] = []


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_prints_plain_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("count", total=3, unit="sheep") as job:
        job.advance(2)
        job.advance(loss=0.123456, epoch=4)
    out, err = capsys.readouterr()
    assert out == "", "stdout is for results"
    assert err == "count: 3/3 sheep, loss 0.1235, epoch 4, done\n"


def test_progress_spans_all_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 8, "images", epoch=(2, 4)) as job:
        job.advance(8)
    assert capsys.readouterr().err == "train epoch 2/4: 8/8 images, done\n"
    assert Step("train", 4, 8, "images", {}, finished=False, epoch=(2, 4)).share == (1 + 0.5) / 4


def test_share_of_completed_items() -> None:
    assert Step("count", 1, 4, "sheep", {}, finished=False).share == 0.25
    assert Step("count", 5, 4, "sheep", {}, finished=False).share == 1, "more items than expected"
    assert [Step("count", 5, None, "sheep", {}, finished=done).share for done in (False, True)] == [0, 1]


def test_prints_at_most_one_line_per_interval(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("count") as job:
        for _ in range(11):
            clock.now += progress.LINE_INTERVAL_S / 5
            job.advance()
    assert capsys.readouterr().err == "count: 5 items\ncount: 10 items\ncount: 11 items, done\n"


def test_failed_job_is_not_reported_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Progress("count") as job:
        job.advance()
        raise RuntimeError
    assert "done" not in capsys.readouterr().err


def test_watcher_from_environment_receives_each_step(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    monkeypatch.setitem(sys.modules, "watching", sys.modules[__name__])
    monkeypatch.setenv(WATCHER, "watching:watch")
    for _ in track(range(3), "count", total=3, unit="sheep"):
        clock.now += progress.LINE_INTERVAL_S
    assert [(step.done, step.finished) for step in seen] == [(1, False), (2, False), (3, False), (3, True)]
    assert seen[-1] == Step("count", 3, 3, "sheep", {}, finished=True)


def watch(step: Step) -> None:
    seen.append(step)


def test_no_watcher_without_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    monkeypatch.delenv(WATCHER, raising=False)
    assert list(track("ab", "count")) == ["a", "b"]
    assert not seen


def test_shows_progress_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("count", total=2) as job:
        job.advance(2, loss=0.5)
        say("a line between")
    shown = terminal.getvalue()
    assert "2/2" in shown
    assert "loss=0.5" in shown
    assert "a line between\n" in shown
    assert "done" not in shown, "the bar shows it"
