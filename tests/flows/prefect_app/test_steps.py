"""The steps around the stages: each alone, and all of them in a run of the flow."""

from collections.abc import Callable
from pathlib import Path

import pytest

from atlas_model.core.params import Params, load_params
from crawlers.crawl.health import coverage_drops
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
        figures: dict[str, dict[str, float | None]] = {"prices": {"distance": 0.5, "chance": 0.1, "threshold": 0.2}}
        drifted = [] if old == "similar" else ["prices", "categories"]
        return None if old == "forgotten" else DriftReport("# Report", drifted, Path("x.md"), figures)

    monkeypatch.setattr(drift, "report_drift", report_drift)
    for last, expected in (
        (None, NOTHING),
        (params.crawl.snapshot, NOTHING),
        ("forgotten", NOTHING),
        ("similar", steps.StepResult("above the thresholds: nothing", "# Report")),
        ("older", drifted_from("older", params.crawl.snapshot)),
    ):
        monkeypatch.setattr(drift, "last_profiled_snapshot", lambda last=last: last)
        assert steps.drift(params) == expected
    assert asked == [(old, params.crawl.snapshot) for old in ("forgotten", "similar", "older")]


def drifted_from(old: str, new: str) -> steps.StepResult:
    figures = {"prices": {"distance": 0.5, "chance": 0.1, "threshold": 0.2}}
    payload = {"old": old, "new": new, "drifted": ["prices", "categories"], "figures": figures, "report": "x.md"}
    return steps.StepResult(
        "above the thresholds: prices, categories",
        "# Report",
        summary="drift in prices, categories",
        tags=("drift",),
        events=(steps.RunEvent("drift", f"crawl.{new}", f"crawl {new}", payload),),
    )


def promoted(**payload: object) -> tuple[steps.RunEvent, ...]:
    return (steps.RunEvent("promoted", "champion", f"version {payload['version']}", dict(payload)),)


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [
        (
            Decision(True, True, 1, "the first", "**f**"),
            steps.StepResult(
                "the first",
                "**f**",
                True,
                True,
                "atlas: the first",
                "promoted to version 1",
                ("accepted", "promoted"),
                promoted(version=1, replaced=None, change=None, figures={}, reason="the first"),
            ),
        ),
        (
            Decision(True, True, 4, "better", "**b**", replaced=3, change=0.004, figures={"micro F": 0.9}),
            steps.StepResult(
                "better",
                "**b**",
                True,
                True,
                "atlas: better",
                "(+.004 to version 3 on the validation split); promoted to version 4",
                ("accepted", "promoted"),
                promoted(version=4, replaced=3, change=0.004, figures={"micro F": 0.9}, reason="better"),
            ),
        ),
        (
            Decision(False, True, 1, "worse", "**w**", replaced=1, change=-0.05),
            steps.StepResult(
                "worse",
                "**w**",
                True,
                False,
                summary="(-.050 to version 1 on the validation split); not promoted: version 1 stays",
            ),
        ),
        (
            Decision(False, False, 1, "the same", "s"),
            steps.StepResult(
                "the same", "s", False, True, "", "(the model is the champion already, version 1)", ("accepted",)
            ),
        ),
    ],
    ids=["first", "promoted", "refused", "champion"],
)
def test_run_is_accepted_only_with_a_champion(
    params: Params, monkeypatch: pytest.MonkeyPatch, decision: Decision, outcome: steps.StepResult
) -> None:
    monkeypatch.setattr(promote, "promote", lambda _params: decision)
    assert steps.promote(params) == outcome


def test_crawl_that_reads_a_shop_worse_is_an_event() -> None:
    def health(products: int, price: float) -> dict[str, object]:
        return {"asked": "x", "products": products, "success_rate": 1.0, "coverage": {"price": price}}

    drops = list(coverage_drops({"a.test": health(100, 1.0)}, {"a.test": health(40, 0.5)}, 0.3))
    detail = "".join(f"\n  - {sentence}" for sentence in drops)
    reason = f"stage crawl failed: shops were read worse than in the last accepted crawl:{detail}\nTo continue, run"
    event = steps.degraded_crawl(reason, "crawl-2")
    assert event is not None
    assert (event.name, event.resource, event.payload["snapshot"]) == ("crawl.degraded", "crawl.crawl-2", "crawl-2")
    assert event.payload["shops"] == {
        "a.test": ["its products fell from 100 to 40", "price fell from 100.0% to 50.0% of its product pages"]
    }
    assert steps.degraded_crawl("stage crawl failed: no response\nTo continue, run", "crawl-2") is None


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


AFTER_DRIFT = {
    "name": "Drift is seen by automations",
    "trigger": {
        "type": "event",
        "posture": "Reactive",
        "expect": ["atlas.drift"],
        "match": {"prefect.resource.id": "atlas.crawl.*"},
        "threshold": 1,
        "within": 0,
    },
    "actions": [{"type": "do-nothing"}],
}
PROGRAM = """
import sys
import flows.prefect_app.flow as pipeline
from pathlib import Path
from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import say
from flows.prefect_app.steps import RunEvent, StepResult

def promote(params):
    say("warning: comparing")
    if Path("refuse").exists():
        raise AtlasError("the champion's folder is damaged")
    event = RunEvent("promoted", "champion", "version 1", {"version": 1})
    return StepResult(
        "promoted to version 1", "# Promotion", accepted=True, news="atlas: promoted", summary="promoted to version 1",
        tags=("accepted", "promoted"), events=(event,),
    )

def drift(params):
    event = RunEvent("drift", "crawl.2", "crawl 2", {"drifted": ["prices"]})
    message = "beyond the thresholds: prices"
    return StepResult(message, "# Drift", summary="drift in prices", tags=("drift",), events=(event,))

pipeline.steps.drift = drift
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
    automation = prefect_server.ask("/automations/", AFTER_DRIFT)["id"]

    run = flow(PROGRAM.replace("sys.argv", '["recrawl"]'))
    assert run.states() == dict.fromkeys(
        ["recrawl", "crawl", "zoom_train", "split", "drift", "promote", "commit", "notify"], "Completed"
    )
    assert (run.state, run.message) == ("Completed", "promoted to version 1; drift in prices")
    assert run.tags == ["accepted", "drift", "promoted"]
    snapshot = load_params(mini_project / "params.yaml").crawl.snapshot
    assert run.name == f"manual, {snapshot}"
    events = wait_until(lambda: len(found := run.events()) == 2 and found)
    assert events["atlas.promoted"]["payload"] == {"version": 1}
    assert events["atlas.promoted"]["resource"]["prefect.resource.id"] == "atlas.champion"
    assert events["atlas.drift"]["payload"] == {"drifted": ["prices"]}
    fired = {
        "event": {"name": ["prefect.automation.triggered"]},
        "resource": {"id": [f"prefect.automation.{automation}"]},
    }
    wait_until(lambda: prefect_server.ask("/events/filter", {"filter": fired})["events"])
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
    failure = "promote failed: the champion's folder is damaged\nTo continue, run the flow again"
    assert run.state == "Failed"
    assert run.message.startswith(failure)
    assert run.messages()["notify"].startswith(f"atlas: The run has failed. {failure}")
    log = "\n".join(run.lines())
    assert log.count("the champion's folder is damaged") == 2, "and in the notification"
    assert len(runs_of(mini_project)) == 3, "the stages are done, whatever became of the steps"


def _flow_of(folder: Path, server: PrefectServer) -> Callable[[str], RunInUi]:
    return lambda program: run_in_ui(server, run_flow(folder, program, PREFECT_API_URL=server.url).stderr)
