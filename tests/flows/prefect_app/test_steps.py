"""The steps around the stages: each alone, and all of them in a run of the flow."""

from collections.abc import Callable
from pathlib import Path

import pytest

from atlas_model.core.params import Params, load_params
from flows.monitoring import drift
from flows.monitoring.drift import DriftReport
from flows.prefect_app import steps
from flows.prefect_app.steps import NOTHING
from flows.registry import promote, versions
from flows.registry.promote import Decision
from flows.registry.versions import Version
from tests.support.flow_projects import RunInUi, run_flow, run_in_ui, runs_of
from tests.support.paths import ROOT
from tests.support.prefect_server import PrefectServer
from tests.support.waiting import wait_until

STAGES = ("crawl", "zoom_train", "split")


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def test_reports_drift_between_two_crawls(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def report_drift(old: str, new: str, _params: Params) -> DriftReport | None:
        asked.append((old, new))
        return None if old == "forgotten" else DriftReport("# Report", ["prices", "categories"], Path("x.md"))

    monkeypatch.setattr(drift, "report_drift", report_drift)
    for last, expected in (
        (None, NOTHING),
        (params.crawl.snapshot, NOTHING),
        ("forgotten", NOTHING),
        ("older", steps.StepResult("above the thresholds: prices, categories", "# Report")),
    ):
        monkeypatch.setattr(drift, "last_profiled_snapshot", lambda last=last: last)
        assert steps.drift(params) == expected
    assert asked == [("forgotten", params.crawl.snapshot), ("older", params.crawl.snapshot)]


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [
        (Decision(True, True, 2, "better", "**b**"), steps.StepResult("better", "**b**", True, True, "atlas: better")),
        (Decision(False, True, 1, "worse", "**w**"), steps.StepResult("worse", "**w**", True, False)),
        (Decision(False, False, 1, "the same", "s"), steps.StepResult("the same", "s", False, True)),
    ],
    ids=["promoted", "refused", "champion"],
)
def test_run_is_accepted_only_with_a_champion(
    params: Params, monkeypatch: pytest.MonkeyPatch, decision: Decision, outcome: steps.StepResult
) -> None:
    monkeypatch.setattr(promote, "promote", lambda _params: decision)
    assert steps.promote(params) == outcome


def test_accepted_run_is_versioned_once(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "commit_run", lambda _params, _message: Version("0123456789", "accepted", "run-1"))
    assert steps.commit(params).message == "run-1: commit 01234567 on accepted"
    monkeypatch.setattr(versions, "commit_run", lambda _params, _message: None)
    assert steps.commit(params) == NOTHING


def test_candidate_is_compared_once(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not steps.is_unchanged()
    steps.record_run(params)
    assert steps.is_unchanged()
    for path in ("dvc.lock", "params.yaml", "models/champions.json", "models/champion/x"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("changed")
        assert not steps.is_unchanged(), path
        steps.record_run(params)
        assert steps.is_unchanged(), path


PROGRAM = """
import sys
import flows.prefect_app.flow as pipeline
from pathlib import Path
from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import say
from flows.prefect_app.steps import StepResult

def promote(params):
    say("warning: comparing")
    if Path("refuse").exists():
        raise AtlasError("the champion's folder is damaged")
    return StepResult("promoted to version 1", "# Promotion", accepted=True, news="atlas: promoted")

pipeline.steps.drift = lambda params: StepResult("beyond the thresholds: prices", "# Drift")
pipeline.steps.promote = promote
pipeline.steps.commit = lambda params: StepResult("run-1")
pipeline.steps.notify = lambda text, params: StepResult(text)
state = pipeline.atlas(recrawl="recrawl" in sys.argv, return_state=True)
sys.exit(not state.is_completed())
"""


@pytest.mark.slow
def test_flow_run_contains_all_steps(mini_project: Path, prefect_server: PrefectServer) -> None:
    (mini_project / "models/categorizer").mkdir(parents=True)
    text = (mini_project / "params.yaml").read_text()
    text = text.replace("commit: false", "commit: true").replace("webhook: null", 'webhook: "http://127.0.0.1:1/"')
    (mini_project / "params.yaml").write_text(text)
    flow = _flow_of(mini_project, prefect_server)

    run = flow(PROGRAM.replace("sys.argv", '["recrawl"]'))
    assert run.states() == dict.fromkeys(
        ["recrawl", "crawl", "zoom_train", "split", "drift", "promote", "commit", "notify"], "Completed"
    )
    assert run.state == "Completed"
    assert list(run.states())[-3:] == ["promote", "notify", "commit"], "told, whatever becomes of the commit"
    assert run.messages()["commit"] == "run-1"
    assert run.messages()["notify"] == "atlas: promoted"
    assert set(run.graph()) == set(run.states()), "one tree"
    assert wait_until(lambda: run.artifacts("promote"))[0]["data"] == "# Promotion"
    assert run.lines("promote", 30) == ["warning: comparing"]
    assert "snapshot: sample-1" not in (mini_project / "params.yaml").read_text()

    run = flow(PROGRAM)
    assert run.states() == dict.fromkeys([*STAGES, "promote"], "Cached")

    (mini_project / ".atlas/judged").unlink()
    (mini_project / "refuse").touch()
    run = flow(PROGRAM)
    assert run.states() == {
        **dict.fromkeys(STAGES, "Cached"),
        "drift": "Completed",
        "promote": "Failed",
        "notify": "Completed",
    }
    assert (run.state, run.message) == ("Failed", "promote: the champion's folder is damaged")
    assert run.messages()["notify"].endswith("The run has failed. promote: the champion's folder is damaged")
    assert len(runs_of(mini_project)) == 3, "the stages are done, whatever became of the steps"


def _flow_of(folder: Path, server: PrefectServer) -> Callable[[str], RunInUi]:
    return lambda program: run_in_ui(server, run_flow(folder, program, PREFECT_API_URL=server.url).stderr)
