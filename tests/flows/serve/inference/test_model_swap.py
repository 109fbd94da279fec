"""A running service in a project: promotion without a failed request, a broken champion, the token, a graceful stop."""

import base64
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from atlas_model.core.checkpoint import WEIGHTS
from atlas_model.core.files import replacing_folder
from tests.support.promoting import train
from tests.support.serving import image_file
from tests.support.waiting import wait_until
from tests.support.web_pages import atlas_server

TOKEN = "0123456789abcdef"
BODY = {"items": [{"images": [{"bytes": base64.b64encode(image_file(1)).decode()}]}]}
CLIENTS = 4
DRAIN_S = "6"  # many answers on a slow machine too


@contextmanager
def stream(client: httpx.Client) -> Iterator[list[tuple[int, str]]]:
    """Send requests from several threads without a pause; their statuses, and the categories that they got."""
    answers: list[tuple[int, str]] = []
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            answered = client.post("/v1/predict", json=BODY)
            found = answered.json()
            category = (
                found["results"][0]["predictions"][0]["path"][0] if answered.status_code == 200 else found["detail"]
            )
            answers.append((answered.status_code, category))

    threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for category in ("Jeans", "Bags"):  # `train` writes to models/categorizer
        train(category)
        shutil.move("models/categorizer", f"models/{category}")
    shutil.copytree("models/Jeans", "models/champion")
    return tmp_path


def promote(project: Path, model: str) -> None:
    """Replace the champion's folder as a promotion does."""
    with replacing_folder(project / "models/champion") as folder:
        for file in (project / "models" / model).iterdir():
            shutil.copy2(file, folder)


@pytest.mark.slow
def test_champion_is_exchanged_and_the_service_stopped_without_a_failed_request(project: Path) -> None:
    arguments = ["serve", "--port", "0", "--engine", "torch", "--drain", DRAIN_S]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with (
        atlas_server(project, *arguments, ATLAS_TOKEN=TOKEN) as (url, process),
        httpx.Client(base_url=url.partition("?")[0], headers=headers, timeout=30) as client,
    ):
        assert httpx.get(client.base_url).status_code == 401
        assert httpx.get(client.base_url.join("/v2/health/ready")).status_code == 200
        with stream(client) as answers:
            wait_until(lambda: len(answers) > 20)
            promote(project, "Bags")
            wait_until(lambda: answers[-1][1] == "Bags")
        assert {status for status, _ in answers} == {200}
        assert {category for _, category in answers} == {"Jeans", "Bags"}

        shutil.copytree(project / "models/Jeans", project / "models/broken")
        (project / "models/broken" / WEIGHTS).write_bytes(b"no weights")
        with stream(client) as answers:
            promote(project, "broken")
            wait_until(lambda: metric(client, "atlas_model_refused") == 1)
        assert set(answers) == {(200, "Bags")}
        assert "new model refused" in (project / "server.log").read_text()
        promote(project, "Jeans")
        wait_until(lambda: metric(client, "atlas_model_refused") == 0)
        assert client.post("/v1/predict", json=BODY).json()["results"][0]["predictions"][0]["path"] == ["Jeans"]

        _check_stop(client, process)


def _check_stop(client: httpx.Client, process: "subprocess.Popen[str]") -> None:
    """Requests are answered after the signal, while readiness is false; then the process ends with exit code 0."""
    answers: list[int] = []
    not_ready_at: list[float] = []
    os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if client.get("/v2/health/ready").status_code == 503:
                not_ready_at.append(time.monotonic())
                answers.append(client.post("/v1/predict", json=BODY).status_code)
        except httpx.TransportError:  # it no longer listens
            time.sleep(0.05)
    assert process.wait(timeout=10) == 0
    assert len(answers) > 3
    assert set(answers) == {200}
    assert not_ready_at[-1] - not_ready_at[0] > 0.5
