"""The road off one machine: prefect.yaml, its work pools' templates, and a run that a real worker starts."""

import json
import os
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import prefect
import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.events.schemas.events import Resource

from flows.prefect_app.steps import degraded_crawl
from flows.prefect_app.ui.run_page import PREFIX
from tests.support.paths import ROOT
from tests.support.prefect_server import PrefectServer

PREFECT_YAML = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: dict[str, dict[str, Any]] = {each["name"]: each for each in PREFECT_YAML["deployments"]}
KINDS = {"kubernetes": "prefect-kubernetes", "ecs": "prefect-aws"}
METADATA = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
MOUNTS = {"project": "/work", "locks": "/work/.dvc/tmp"}


def template(kind: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / f"deploy/{kind}.json").read_text(encoding="utf-8")))


def prefects_own(kind: str) -> dict[str, Any]:
    known = json.loads(METADATA.read_text(encoding="utf-8"))
    return dict(known[KINDS[kind]][kind]["default_base_job_configuration"])


def test_version_and_schedule_match_other_files() -> None:
    assert PREFECT_YAML["prefect-version"] == prefect.__version__
    pipeline = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["pipeline"]
    for deployment in DEPLOYMENTS.values():
        (schedule,) = deployment["schedules"]
        assert (schedule["cron"], schedule["timezone"]) == (pipeline["cron"], pipeline["timezone"])
        assert schedule["parameters"] == {"recrawl": True}
        assert deployment["concurrency_limit"]["limit"] == 1
        file, _, function = deployment["entrypoint"].partition(":")
        assert f"\ndef {function}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["process", *KINDS])
def test_job_variables_are_known_to_the_work_pool(kind: str) -> None:
    variables = DEPLOYMENTS[kind]["work_pool"]["job_variables"]
    if kind == "process":
        known = json.loads(METADATA.read_text(encoding="utf-8"))["prefect"]["process"]
        schema = known["default_base_job_configuration"]["variables"]
    else:
        schema = template(kind)["variables"]
        assert variables["image"] == "{{ $ATLAS_IMAGE }}"
    assert set(variables) <= set(schema["properties"])
    jsonschema.validate(variables, schema)
    assert variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert not [name for name in variables["env"] if any(word in name for word in ("KEY", "SECRET", "PASSWORD"))]


def test_kubernetes_template_mounts_project_volume() -> None:
    ours, own = template("kubernetes"), prefects_own("kubernetes")
    pod = ours["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod.pop("securityContext")["runAsNonRoot"] is True
    assert container.pop("securityContext")["allowPrivilegeEscalation"] is False
    assert {mount["name"]: mount["mountPath"] for mount in container.pop("volumeMounts")} == MOUNTS
    project, locks = pod.pop("volumes")
    assert project == {"name": "project", "persistentVolumeClaim": {"claimName": "{{ claim_name }}"}}
    assert locks == {"name": "locks", "emptyDir": {}}
    assert ours["variables"]["properties"].pop("claim_name")["default"] == "atlas"
    assert ours == own


def test_ecs_template_mounts_project_file_system() -> None:
    ours, own = template("ecs"), prefects_own("ecs")
    task = ours["job_configuration"]["task_definition"]
    assert (task.pop("networkMode"), task.pop("requiresCompatibilities")) == ("awsvpc", ["FARGATE"])
    mounts = task["containerDefinitions"][0].pop("mountPoints")
    assert {mount["sourceVolume"]: mount["containerPath"] for mount in mounts} == MOUNTS
    project, locks = task.pop("volumes")
    assert project["efsVolumeConfiguration"] == {
        "fileSystemId": "{{ file_system_id }}",
        "transitEncryption": "ENABLED",
    }
    assert locks == {"name": "locks"}
    variables = ours["variables"]
    assert variables["properties"].pop("file_system_id")["type"] == "string"
    assert variables.pop("required") == ["file_system_id"]
    assert ours == own


def test_automation_of_the_docs_expects_our_event() -> None:
    automation = AutomationCore.model_validate(yaml.safe_load((ROOT / "deploy/automation.yaml").read_text()))
    event = degraded_crawl("stage crawl failed: worse:\n  - a.test: price fell from 9% to 1%", "crawl-2")
    assert event is not None
    assert isinstance(automation.trigger, EventTrigger)
    assert automation.trigger.expect == {f"{PREFIX}{event.name}"}
    assert automation.trigger.match.matches(Resource({"prefect.resource.id": f"{PREFIX}{event.resource}"}))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_worker_runs_deployment_of_its_pool(mini_project: Path, prefect_server: PrefectServer) -> None:
    (mini_project / "flows").symlink_to(ROOT / "flows")
    content = deepcopy(PREFECT_YAML)
    content["deployments"] = [DEPLOYMENTS["process"]]
    (mini_project / "prefect.yaml").write_text(yaml.safe_dump(content))

    def prefect_(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=mini_project,
            env={**os.environ, "PREFECT_API_URL": prefect_server.url, "PWD": str(mini_project)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"

    prefect_("work-pool", "create", "process", "--type", "process")
    prefect_("--no-prompt", "deploy", "--all")
    deployment = prefect_server.ask("/deployments/name/atlas/process")
    assert [schedule["schedule"]["cron"] for schedule in deployment["schedules"]] == ["0 3 * * *"]
    run = prefect_server.ask(f"/deployments/{deployment['id']}/create_flow_run", {})["id"]
    prefect_("worker", "start", "--pool", "process", "--run-once")

    assert prefect_server.ask(f"/flow_runs/{run}")["state_name"] == "Completed"
    tasks = prefect_server.of_flow_run("task_runs", run)
    assert {"crawl", "zoom_train", "split"} <= {task["name"] for task in tasks}
    assert sorted((mini_project / "ran").read_text().split()) == ["crawl", "split", "zoom_train"]
    _wait_for_runs_of_the_schedule(prefect_server, deployment["id"])


def _wait_for_runs_of_the_schedule(server: PrefectServer, deployment: str) -> None:
    """With SQLAlchemy 2.1 they never come, and nothing says so; here that is told sooner than where one has to fire."""
    deadline = time.monotonic() + 120
    question = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC"}
    while not any(run["auto_scheduled"] for run in server.ask("/flow_runs/filter", question)):
        assert time.monotonic() < deadline, f"the schedule orders no runs: {server.log.read_text()}"
        time.sleep(0.2)
