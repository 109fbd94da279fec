"""The change since the last accepted model."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows import paths
from flows.registry.champion import AcceptedMetrics, Event, History
from flows.report.facts.accepted import hash_of_weights, read_acceptance
from flows.report.facts.figures import Figure, change_since, collect_metrics
from flows.report.facts.predictions import Prediction, fingerprint

EVALUATED: dict[str, Any] = {
    "test": {"n": 100, "micro_f1": 0.9, "ece": 0.02, "intervals": {"micro_f1": [0.87, 0.93], "ece": [0.01, 0.03]}}
}


def event(version: int, weights: str | None, micro_f1: float = 0.85, **more: Any) -> Event:
    test = None
    if weights is not None:
        values = {"micro_f1": micro_f1, "macro_f1": None, "hierarchical_f1": None, "ece": 0.05}
        intervals = {"micro_f1": [micro_f1 - 0.04, micro_f1 + 0.04]}
        test = AcceptedMetrics(weights=weights, images="same", n=100, intervals=intervals, products={}, **values)
    given: dict[str, Any] = {"replaced": version - 1 or None, "rollback": False, **more}
    return Event(
        version=version, model="m", at="2026-11-01T00:00:00+00:00", reason="it is better", figures={}, split={},
        test=test, **given,
    )  # fmt: skip


def write(folder: Path, *events: Event) -> Path:
    path = folder / "champions.json"
    path.write_text(json.dumps(History(champions=list(events)).model_dump()))
    return path


def test_compares_with_champion_or_with_the_one_that_it_replaced(tmp_path: Path) -> None:
    nothing = read_acceptance(write(tmp_path), "this")
    assert (nothing.current, nothing.is_this, nothing.before) == (None, False, None)

    path = write(tmp_path, event(1, "first"), event(2, "second"))
    other = read_acceptance(path, "this")
    assert (other.is_this, other.before and other.before.version) == (False, 2)
    this = read_acceptance(path, "second")
    assert (this.is_this, this.before and this.before.version) == (True, 1)
    first = read_acceptance(write(tmp_path, event(1, "first")), "first")
    assert (first.is_this, first.before) == (True, None)

    rolled_back = write(tmp_path, event(1, "first"), event(2, "second"), event(1, "first", replaced=2, rollback=True))
    back = read_acceptance(rolled_back, "second")
    assert (back.is_this, back.before and back.before.version) == (False, 1)


def test_change_has_an_interval_from_both_intervals(tmp_path: Path) -> None:
    metrics = collect_metrics(EVALUATED, read_acceptance(write(tmp_path, event(1, "first")), "this"), "same")
    exact, macro, _, ece = metrics.headlines
    assert exact.change is not None
    assert exact.change.value == pytest.approx(0.05)
    assert exact.change.interval == pytest.approx((0.0, 0.1)), "half widths .03 and .04 make .05"
    assert not exact.change.clear
    assert macro.change is None, "unknown on both sides"
    assert ece.change is not None
    assert ece.change.value == pytest.approx(-0.03)
    assert metrics.same_images is True
    assert collect_metrics(EVALUATED, metrics.acceptance, "other").same_images is False
    clear = change_since(Figure(0.9, (0.89, 0.91)), Figure(0.8, (0.79, 0.81)))
    assert clear is not None
    assert clear.clear


def test_model_without_evaluation_is_no_comparison(tmp_path: Path) -> None:
    acceptance = read_acceptance(write(tmp_path, event(1, None)), "this")
    metrics = collect_metrics(EVALUATED, acceptance, "same")
    assert acceptance.before is not None
    assert metrics.headlines[0].change is None
    assert metrics.same_images is None


def test_history_of_older_version_is_read(tmp_path: Path) -> None:
    older = event(1, None).model_dump()
    del older["test"]
    (tmp_path / "champions.json").write_text(json.dumps({"champions": [older]}))
    assert read_acceptance(tmp_path / "champions.json", "this").current is not None
    assert Event.model_validate(older).test is None


def test_fingerprints_tell_models_and_images_apart(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")
    one = hash_of_weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"b")
    assert one != hash_of_weights(tmp_path)
    first, second = Prediction("a", "x", "y", 0.5), Prediction("b", "x", "x", 0.6)
    assert fingerprint([first, second]) == fingerprint([second, Prediction("a", "x", "z", 0.1)])
    assert fingerprint([first]) != fingerprint([Prediction("a", "y", "y", 0.5)])


def test_fresh_clone_has_no_accepted_model() -> None:
    from tests.support.paths import ROOT

    assert json.loads((ROOT / paths.CHAMPIONS).read_text()) == {"champions": []}
