"""A promotion makes the report outdated: the flow runs its stage again before it commits the run."""

from pathlib import Path

import pytest

from flows.dvc import repo
from tests.support.flow_projects import run_flow, runs_of
from tests.support.prefect_server import PrefectServer

REPORT = """
  report:
    cmd: exec python stage.py report reports/report data/splits
    params: [crawl]
    deps: [data/splits, models/champions.json]
    outs: [reports/report]
"""
PROGRAM = """
import sys
import flows.prefect_app.flow as pipeline
from flows.paths import CHAMPIONS
from flows.prefect_app.steps import StepResult

def promote(params):
    CHAMPIONS.write_text("the first")
    return StepResult("promoted to version 1", accepted=True)

pipeline.steps.drift = lambda params: StepResult("nothing")
pipeline.steps.promote = promote
state = pipeline.atlas(return_state=True)
sys.exit(not state.is_completed())
"""


@pytest.mark.slow
def test_report_is_renewed_after_a_promotion(
    mini_project: Path, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mini_project / "models/categorizer").mkdir(parents=True)
    (mini_project / "models/champions.json").write_text("none")
    with (mini_project / "dvc.yaml").open("a") as stages:
        stages.write(REPORT)
    done = run_flow(mini_project, PROGRAM, PREFECT_API_URL=prefect_server.url)
    assert done.returncode == 0, done.stderr
    assert runs_of(mini_project).count("report") == 2
    assert runs_of(mini_project)[-1] == "report"
    monkeypatch.chdir(mini_project)
    assert repo.out_of_date() == [], "so the run can be committed"
