"""Profiles of crawls, if the clock was set back between two runs."""

import os
import time
from pathlib import Path

import pytest

from flows.monitoring import drift


def test_last_profile_is_found_although_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drift.PROFILES.mkdir(parents=True)
    old, new = (drift.PROFILES / f"{name}.json" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("{}")
    later_ns = time.time_ns() + 2 * 86_400 * 10**9  # the time of the last run, by the clock of then
    os.utime(old, ns=(later_ns, later_ns))
    drift._mark_last(new)
    assert drift.last_profiled_snapshot() == "new"
