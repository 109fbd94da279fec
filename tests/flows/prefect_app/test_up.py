"""One life of `make up`, with its real server: what runs by itself, what is killed, what is forgotten, what is shown.

Told once, by the fixture `story`; each test looks at one thing that happened.
"""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from crawlers.http.chromium import find_browser
from flows.prefect_app.missed_schedules import NAME as MISSED
from flows.prefect_app.server import is_healthy
from tests.support.chromium import needs_chromium
from tests.support.flow_projects import RunInUi
from tests.support.up import ENDINGS, LONG_AGO, TIMEOUT_S, Up, make_project, run_up, until_gone, wait_for

REPORT = "<!DOCTYPE html><title>Report</title><script>document.title = window.origin</script>"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


# --- what happens


def watch_then_kill(up: Up) -> SimpleNamespace:
    """The first run trains slowly; once its progress has moved, its process is killed."""
    run = up.order()
    wait_for("training", (up.folder / ".atlas/epoch").exists)
    seen = wait_for("progress", lambda: up.progress(run))
    moved = wait_for("more progress", lambda: (now := up.progress(run)) and now > seen and now)
    processes = up.processes()["runs"]
    (flow,) = [process for process in processes if process.ppid() == up.pid]
    flow.kill()
    gone_s = until_gone(processes)
    (up.folder / "slow").unlink()
    epoch = int((up.folder / ".atlas/epoch").read_text())
    return SimpleNamespace(
        run=run, seen=seen, moved=moved, n=len(processes), gone_s=gone_s, epoch=epoch, end=up.ended(run)
    )


def kill_server(up: Up) -> bool:
    """Whether it serves again at the same place."""
    (server,) = up.processes()["server"]
    server.kill()
    until_gone([server])
    wait_for("the server", lambda: is_healthy(up.url, timeout_s=5))
    return True


def scheduled_run(up: Up) -> dict[str, Any]:
    """A run that nobody ordered, once it has come to its end; then the schedule pauses, as the UI has it."""
    (run, *_) = wait_for("a scheduled run", lambda: _by_schedule(up, *ENDINGS))
    up.server.ask(f"/deployments/{up.deployment}/pause_deployment", {})
    return dict(run)


def _by_schedule(up: Up, *states: str) -> list[dict[str, Any]]:
    return [run for run in up.runs(*states) if run["auto_scheduled"] and run["state_name"] != MISSED]


def miss_times(up: Up) -> list[dict[str, Any]]:
    """Some times of the schedule pass while a run is at work; what became of each once that had ended."""
    at_work = hang(up)
    now = datetime.now(UTC)
    passed = {"start_time": str(now - timedelta(minutes=5)), "end_time": str(now), "max_runs": 5}
    up.server.ask(f"/deployments/{up.deployment}/resume_deployment", {})
    up.server.ask(f"/deployments/{up.deployment}/schedule", passed)
    late = [run for run in _by_schedule(up, "SCHEDULED") if run["expected_start_time"] < now.isoformat()]
    (up.folder / "hang-crawl").unlink()
    up.ended(at_work)
    ended = [up.ended(run["id"]) for run in late]
    up.server.ask(f"/deployments/{up.deployment}/pause_deployment", {})
    return ended


def cancel(up: Up) -> SimpleNamespace:
    """A run is at work; it is cancelled as the UI does it."""
    run = hang(up)
    processes = up.processes()["runs"]
    up.server.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    gone_s, end = until_gone(processes), up.ended(run)
    return SimpleNamespace(n=len(processes), gone_s=gone_s, end=end, **vars(shown(up, end)))


def shown(up: Up, run: dict[str, Any]) -> SimpleNamespace:
    """What the page of ``run`` shows now."""
    found = RunInUi(up.server, run)
    return SimpleNamespace(
        name=found.name, states=found.states(), lines=found.lines(None, logging.WARNING), pages=found.artifacts(None)
    )


def hang(up: Up) -> str:
    """The id of a run whose first stage does not come to an end."""
    (up.folder / "ran").unlink()
    (up.folder / "hang-crawl").touch()
    params = (up.folder / "params.yaml").read_text()
    (up.folder / "params.yaml").write_text(re.sub(r"snapshot: \S+", f"snapshot: hang-{time.time_ns()}", params))
    run = up.order()
    wait_for("a stage at work", (up.folder / "ran").exists)
    return run


def forget(up: Up, old: str) -> SimpleNamespace:
    """``old`` is made to have ended long ago; then large runs come and go."""
    before = up.rows(old)
    up.age(old)
    wait_for("the oldest run to be forgotten", lambda: not up.rows(old))
    images, sizes = 5, []
    of_images = "FROM events WHERE event LIKE 'prefect.artifact-collection.%'"
    for _ in range(3):
        run = up.server.ask("/flow_runs/", {"flow_id": up.flow, "state": {"type": "COMPLETED"}})["id"]
        for number in range(images):
            large = {"type": "markdown", "key": f"large-{number}", "data": "x" * 400_000, "flow_run_id": run}
            up.server.ask("/artifacts/", large)
        up.age(run)
        wait_for("a large run to be forgotten", lambda run=run: not up.rows(run))
        wait_for("its events", lambda: up.count(f"{of_images} AND length(payload) > 400000") >= images)
        up.change(
            f"UPDATE events SET occurred = datetime('now', '-2 hours') || '.000000' WHERE id IN (SELECT id {of_images})"
        )
        wait_for("its events to be forgotten", lambda: not up.count(of_images))
        sizes.append(up.pages())
    return SimpleNamespace(before=before, sizes=sizes)


def kill_all(up: Up) -> SimpleNamespace:
    """`make up` is killed, with a run at work, and comes again when a time of its schedule has passed."""
    up.server.ask(f"/deployments/{up.deployment}/resume_deployment", {})
    run = hang(up)
    missed = wait_for("the next times", lambda: up.runs("SCHEDULED"))[0]["id"]
    processes = [process for kind in up.processes().values() for process in kind]
    psutil.Process(up.pid).kill()
    gone_s = until_gone(processes)
    overdue = "UPDATE flow_run SET expected_start_time = ?, next_scheduled_start_time = ? WHERE id = ?"
    assert up.change(overdue, LONG_AGO, LONG_AGO, missed)
    again = Up(up.folder)
    return SimpleNamespace(n=len(processes), gone_s=gone_s, up=again, end=again.run(run), missed=again.run(missed))


@contextmanager
def flow_in_a_shell(folder: Path, up: Up) -> Iterator[Callable[[], str]]:
    """A flow that no deployment started; yields what kills it once it is at work, and tells the run's id."""
    (folder / "hang-crawl").touch()
    of_no_deployment = {"state": {"type": {"any_": ["RUNNING"]}}, "deployment_id": {"is_null_": True}}
    with subprocess.Popen(
        [sys.executable, "-m", "flows.prefect_app.flow"],
        cwd=folder,
        env={**os.environ, "PREFECT_API_URL": up.server.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as flow:

        def kill() -> str:
            wait_for("a stage at work", (folder / "ran").exists)
            (run,) = up.server.ask("/flow_runs/filter", {"flow_runs": of_no_deployment})
            flow.kill()
            return str(run["id"])

        try:
            yield kill
        finally:
            flow.kill()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, git_env: dict[str, str]) -> Iterator[SimpleNamespace]:
    """What happened, in this order, to one project, and to another whose flow a shell started."""
    world = tmp_path_factory.mktemp("up")
    folder = make_project(world / "project", git_env)
    (folder / "slow").touch()
    told = SimpleNamespace()
    os.environ["PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS"] = "2"
    try:
        up = Up(folder)
        told.said, told.url = up.said, up.url
        with flow_in_a_shell(make_project(world / "other", git_env), up) as kill_other:
            told.killed = watch_then_kill(up)
            told.other = kill_other()
        told.served_again = kill_server(up)
        told.scheduled = scheduled_run(up)
        told.trained = [line for line in (folder / "ran").read_text().splitlines() if line.startswith("from")]
        (folder / "reports").mkdir(exist_ok=True)
        (folder / "reports/report.html").write_text(REPORT)
        told.late = miss_times(up)
        told.replacing = shown(up, next(run for run in told.late if run["state_name"] != MISSED))
        told.cancelled = cancel(up)
        told.forgotten = forget(up, told.killed.run)
        told.died = kill_all(up)
        told.up = up = told.died.up
        told.silent = up.ended(told.other)
        yield told
    finally:
        del os.environ["PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS"]
        run_up(folder, "--down")


@pytest.fixture(scope="module")
def pages(story: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """The UI as people have it: the page of the scheduled run, and those of what it shows."""
    from playwright.sync_api import sync_playwright

    run = story.scheduled["id"]
    shown = {found["type"]: found["id"] for found in story.up.server.of_flow_run("artifacts", run)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(None), chromium_sandbox=os.geteuid() != 0)
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_S * 1000)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{story.up.url}/runs/flow-run/{run}")
        page.get_by_text("zoom_train").first.wait_for()
        page.goto(f"{story.up.url}/artifacts/artifact/{shown['table']}")
        page.get_by_text("accuracy").first.wait_for()
        page.goto(f"{story.up.url}/artifacts/artifact/{shown['image']}")
        image = page.locator("img[src^='data:image/png']").first
        image.wait_for()
        width = image.evaluate("image => image.decode().then(() => image.naturalWidth)")
        page.goto(f"{story.up.url}/atlas/report")
        yield SimpleNamespace(faults=faults, width=width, report=page.title())
        browser.close()


def test_deployment_and_parameter_are_described(story: SimpleNamespace) -> None:
    deployment = story.up.server.ask("/deployments/name/atlas/atlas")
    assert "One task" in deployment["description"] or "one task" in deployment["description"]
    assert "new crawl" in deployment["parameter_openapi_schema"]["properties"]["recrawl"]["description"]


@needs_chromium
def test_report_is_served_in_a_sandbox(pages: SimpleNamespace) -> None:
    assert pages.report == "null", "it runs scripts, in an origin of its own"


@needs_chromium
def test_ui_shows_stages_tables_and_images(pages: SimpleNamespace) -> None:
    assert pages.width > 100
    assert not pages.faults


def test_run_is_one_tree_of_all_stages(story: SimpleNamespace) -> None:
    graph = story.up.server.ask(f"/flow_runs/{story.scheduled['id']}/graph-v2")
    labels = [node["label"] for _, node in graph["nodes"]]
    assert labels == ["recrawl", "crawl", "zoom_train"]


def test_schedule_fires_and_crawls_again(story: SimpleNamespace) -> None:
    assert story.scheduled["parameters"] == {"recrawl": True}
    assert story.scheduled["state_name"] == "Completed"


def test_runs_one_of_several_missed_schedules(story: SimpleNamespace) -> None:
    names = [run["state_name"] for run in story.late]
    assert len(names) >= 3
    assert sorted(names) == ["Completed", *[MISSED] * (len(names) - 1)]
    times = sorted(run["expected_start_time"][:16].replace("T", " ") for run in story.late)
    assert {run["name"].partition(",")[0] for run in story.late} == {f"schedule {time}" for time in times}
    first, missed = story.replacing.name, [time for time in times if f"schedule {time}" not in story.replacing.name]
    assert re.fullmatch(r"schedule 20\d\d-\d\d-\d\d \d\d:\d\d, 20\d\d-\d\d-\d\dT\d{6}Z", first), "and the snapshot"
    text = f"{len(missed)} times of the schedule were missed: {', '.join(missed)}. This run replaces them"
    assert f"warning: {text}" in story.replacing.lines
    (page,) = story.replacing.pages
    assert f"{text}." in page["data"]
    assert f"[Open the report of the last run]({story.url}/atlas/report)" in page["data"]


def test_progress_updates_while_a_stage_runs(story: SimpleNamespace) -> None:
    assert 0 < story.killed.seen < story.killed.moved < 100


def test_killed_flow_leaves_no_process_and_is_marked_crashed(story: SimpleNamespace) -> None:
    assert story.killed.n >= 3, "the flow, DVC, the stage"
    assert story.killed.gone_s < 10
    assert story.killed.end["state_name"] == "Crashed"


def test_next_run_resumes_killed_stage(story: SimpleNamespace) -> None:
    assert story.trained[0] == "from epoch 0"
    assert story.trained[1] == f"from epoch {story.killed.epoch}"


def test_killed_server_is_restarted(story: SimpleNamespace) -> None:
    assert story.served_again


def test_cancelling_ends_all_processes(story: SimpleNamespace) -> None:
    assert story.cancelled.n >= 3
    assert story.cancelled.gone_s < 10
    assert story.cancelled.end["state_name"] == "Cancelled"
    assert story.cancelled.states == {"crawl": "Cancelled"}
    assert not story.cancelled.lines, "no warning, no error: it has not crashed"


def test_old_runs_are_deleted_and_database_stays_bounded(story: SimpleNamespace) -> None:
    assert story.forgotten.before > 5
    first, *_, last = story.forgotten.sizes
    assert last < 1.1 * first


def test_killed_up_leaves_no_process(story: SimpleNamespace) -> None:
    assert story.died.n >= 4, "the server as well"
    assert story.died.gone_s < 10


def test_marks_crashed_runs_and_skips_missed_schedules(story: SimpleNamespace) -> None:
    assert story.died.end["state_name"] == "Crashed"
    assert "killed" in story.died.end["state"]["message"]
    assert story.died.missed["state_name"] == MISSED
    log = (story.up.folder / ".prefect/up.log").read_text()
    assert f"were missed: {LONG_AGO[:16]}" in log or f"was missed: {LONG_AGO[:16]}" in log


def test_run_without_heartbeat_is_marked_crashed(story: SimpleNamespace) -> None:
    assert story.silent["state_name"] == "Crashed"
    assert "No heartbeat for 90 s" in story.silent["state"]["message"]


def test_up_prints_url_and_schedule(story: SimpleNamespace) -> None:
    assert f"up: {story.url}" in story.said
