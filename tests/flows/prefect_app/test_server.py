"""Where the Prefect server of `make up` listens and keeps its data, and what is said when it cannot."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import prefect
import pytest

from atlas_model.core.errors import AtlasError, InputError
from flows.prefect_app import up
from flows.prefect_app.server import DATABASE_URL, HOST, Server, database_url, server_settings
from tests.support.servers import Reply, Shop, serving
from tests.support.waiting import wait_until

TIMEOUT_S = 120


def run_up(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.prefect_app.up", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (None, "sqlite+aiosqlite:////srv/atlas/.prefect/prefect.db"),
        ("", "sqlite+aiosqlite:////srv/atlas/.prefect/prefect.db"),
        ("postgres://me:secret@db:5432/prefect", "postgresql+asyncpg://me:secret@db:5432/prefect"),
        ("postgresql://me:secret@db/prefect?ssl=require", "postgresql+asyncpg://me:secret@db/prefect?ssl=require"),
        ("postgresql+asyncpg://db/prefect", "postgresql+asyncpg://db/prefect"),
        ("sqlite:////data/prefect.db", "sqlite+aiosqlite:////data/prefect.db"),
    ],
)
def test_database_url_gets_async_driver(given: str | None, url: str) -> None:
    assert database_url(Path("/srv/atlas/.prefect"), given) == url


@pytest.mark.parametrize(
    "given", ["mysql://me:secret@db/prefect", "me:secret@db", "postgresql+psycopg2://me:secret@db"]
)
def test_refuses_other_databases_without_printing_password(given: str) -> None:
    with pytest.raises(InputError, match=f"{DATABASE_URL}: expected postgresql://") as caught:
        database_url(Path("/srv"), given)
    assert "secret" not in str(caught.value)


def test_server_settings_for_retention_and_access() -> None:
    settings = server_settings(Path("/srv"), "http://127.0.0.1:4200", retention_days=30)
    prefix = "PREFECT_SERVER_SERVICES_DB_VACUUM_"
    assert settings[f"{prefix}ENABLED"] == "events,flow_runs"
    assert settings[f"{prefix}RETENTION_PERIOD"] == str(30 * 86400)
    assert settings["PREFECT_SERVER_EVENTS_RETENTION_PERIOD"] == "P7D"
    origins = settings["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert origins == ["http://127.0.0.1:4200", "http://localhost:4200"]
    short = server_settings(Path("/srv"), "http://127.0.0.1:4200", retention_days=2)
    assert short["PREFECT_SERVER_EVENTS_RETENTION_PERIOD"] == "P2D"


@pytest.mark.parametrize(("answer", "who"), [("true", "a Prefect server"), ("<html>", "another program")])
def test_port_in_use_is_reported_with_its_owner(tmp_path: Path, answer: str, who: str) -> None:
    with (
        serving(Shop({"/api/health": Reply(answer)})) as other,
        pytest.raises(InputError, match=f"port {other.port} .*{who}.*make up PORT="),
    ):
        Server(tmp_path, other.port, 30, {})


def test_port_0_takes_any_free_port(tmp_path: Path) -> None:
    with Server(tmp_path, 0, 30, {}) as server, pytest.raises(OSError, match="in use"):
        socket.create_server((HOST, int(server.url.rpartition(":")[2])))


@pytest.mark.slow
def test_server_that_cannot_start_reports_why(tmp_path: Path) -> None:
    environment = {**os.environ, DATABASE_URL: f"sqlite:///{tmp_path}/missing/prefect.db"}
    with Server(tmp_path, 0, 30, environment) as server:
        server.start()
        with pytest.raises(AtlasError, match=r"did not start: .*unable to open database file"):
            server.wait_until_healthy()
        with pytest.raises(AtlasError, match="cannot be restarted"):
            server.restart_if_ended()


def test_up_reports_invalid_params_before_starting(mini_project: Path) -> None:
    params = (mini_project / "params.yaml").read_text()
    (mini_project / "params.yaml").write_text(params.replace("retention_days: 30", "retention_days: 0"))
    done = run_up(mini_project)
    assert done.returncode == 2
    assert done.stderr.startswith("error: params.yaml: pipeline.retention_days")
    assert "Traceback" not in done.stderr
    assert run_up(mini_project, "--port", "x").returncode == 2


@pytest.mark.slow
def test_up_reports_invalid_schedule_before_starting(mini_project: Path) -> None:
    params = (mini_project / "params.yaml").read_text()
    wrong = params.replace('cron: "0 3 * * *"', 'cron: "every day at 3"').replace(
        "timezone: UTC", "timezone: Mars/Base"
    )
    (mini_project / "params.yaml").write_text(wrong)
    done = run_up(mini_project, "--port", "0")
    assert done.returncode == 2, done.stderr
    assert "2 faults" in done.stderr
    assert "pipeline.cron: expected five fields" in done.stderr
    assert "pipeline.timezone: expected a name" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (mini_project / ".prefect/prefect.db").exists(), "no server for that"


def test_up_runs_once_per_project(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mini_project)
    assert up.main(["--down"]) == 0, "nothing to end"
    note = mini_project / ".prefect/up.json"
    note.write_text('{"pid": 1, "url": "http://127.0.0.1:1234", "serving": true}')
    with note.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for arguments in (["--port", "0"], ["--port", "0", "--detach"]):
            done = run_up(mini_project, *arguments)
            assert done.returncode == 2, arguments
            assert "this project is served already: http://127.0.0.1:1234. `make down` stops that" in done.stderr


def said_while_serving(folder: Path, port: int, has_retried: Callable[[], bool]) -> list[str]:
    """The lines until ``has_retried``, with a server of that port; flows beat as often as the automation expects."""
    program = (
        "import asyncio; from flows.prefect_app import deployment; deployment.RETRY_S = 0.1\n"
        "from prefect.settings import get_current_settings\n"
        "assert get_current_settings().flows.heartbeat_frequency == deployment.HEARTBEAT_S\n"
        "asyncio.run(deployment.serve(None, lambda: None, lambda: None, ()))"
    )
    environment = {**os.environ, "PREFECT_API_URL": f"http://{HOST}:{port}/api"}
    command = [sys.executable, "-c", program]
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stderr=output) as process,
    ):
        try:
            wait_until(lambda: log.read_text() and has_retried(), log.read_text)
        finally:
            process.kill()
    return log.read_text().splitlines()


@pytest.mark.slow
def test_unreachable_server_is_told_once(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound, but not listening
        nobody.bind((HOST, 0))
        (line,) = said_while_serving(tmp_path, nobody.getsockname()[1], lambda: True)
    assert line.startswith("warning: no response from the Prefect server: ")


@pytest.mark.slow
def test_server_without_database_is_told_once_and_asked_again(tmp_path: Path) -> None:
    json_ = {"Content-Type": "application/json"}
    version = Reply(f'"{prefect.__version__}"', headers=json_)
    broken = {path: Reply("{}", 500, json_) for path in ("/api/flows/", "/api/deployments/name/atlas/atlas")}
    with serving(Shop({"/api/admin/version": version, **broken})) as server:
        (line,) = said_while_serving(tmp_path, server.port, lambda: sum(server.asked[path] for path in broken) > 2)
    assert "no response from the Prefect server: " in line
    assert "500" in line


def test_second_ctrl_c_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(up, "STOPPING", ())
    monkeypatch.setattr(up, "down", interrupted)
    assert up.main(["--down"]) == 130
