"""The image and the compose files, without a container engine: they are parsed, and the image's layout is rebuilt."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = ("cpu", "cuda")
SECRET = re.compile(r"token|password|secret|api_key", re.IGNORECASE)

Instruction = tuple[str, str]  # name, arguments


def stages() -> dict[str, tuple[str, list[Instruction]]]:
    """Name of each stage of the Dockerfile -> the image or stage that it starts from, and its instructions."""
    lines = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found: dict[str, tuple[str, list[Instruction]]] = {}
    arguments: dict[str, str] = {}
    for line in filter(str.strip, joined.splitlines()):
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            source, _, stage = rest.partition(" AS ")
            for key, value in arguments.items():
                source = source.replace(f"${{{key}}}", value)
            found[stage] = (source, [])
        elif not found:
            assert name == "ARG"
            key, _, arguments[key] = rest.partition("=")
        else:
            list(found.values())[-1][1].append((name, rest.strip()))
    return found


def with_parents(stage: str) -> list[Instruction]:
    """The instructions that make ``stage``, those of its parents first."""
    source, instructions = stages()[stage]
    return [*(with_parents(source) if source in stages() else []), *instructions]


def is_ignored(path: str) -> bool:
    """Whether .dockerignore leaves out ``path``: the last rule that matches it or a folder of it counts."""
    parts = Path(path).parts
    ignored = False
    for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n"):
        pattern = rule.strip().lstrip("!")
        if pattern and not rule.startswith("#"):
            above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
            if any(fnmatch.fnmatchcase(each, pattern) and each.count("/") == pattern.count("/") for each in above):
                ignored = not rule.startswith("!")
    return ignored


def test_base_image_is_pinned_and_has_a_supported_python() -> None:
    images = {source for source, _ in stages().values() if source not in stages()}
    (image,) = images
    version = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-[a-z]+", image)
    assert version
    assert version[1] in SpecifierSet(PROJECT["requires-python"])


def test_every_file_that_is_copied_exists_and_nothing_else_is_sent() -> None:
    copied = [
        source
        for _, instructions in stages().values()
        for name, arguments in instructions
        if name == "COPY" and "--from=" not in arguments
        for source in arguments.split()[:-1]
    ]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists() or is_ignored(source)] == []
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sent = {path for path in tracked if not is_ignored(path)}
    assert {path for path in sent if not any(path == each or path.startswith(f"{each}/") for each in copied)} == set()
    assert all(map(is_ignored, (".env", ".git/config", "data/sample.parquet", "models/champion/model.safetensors")))
    used = {part for name, arguments in _instructions() if name in ("COPY", "RUN") for part in arguments.split()}
    assert {path.name for path in ROOT.glob("requirements*.lock")} <= used


def _instructions() -> list[Instruction]:
    return [each for _, instructions in stages().values() for each in instructions]


@pytest.mark.parametrize("target", TARGETS)
def test_image_runs_as_another_user_with_a_health_check_and_no_secrets(target: str) -> None:
    instructions = with_parents(target)
    last = dict(instructions)
    user, _, group = last["USER"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert instructions[-1][0] == "USER"  # nothing runs as root after it
    assert json.loads(last["CMD"])[:4] == ["atlas", "serve", "--host", "0.0.0.0"]
    port = json.loads(last["CMD"])[-1]
    assert last["EXPOSE"] == port
    check = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    assert f"http://127.0.0.1:{port}/v2/health/live" in check[-1]
    compile(check[-1], "health check", "exec")
    assert not [text for name, text in instructions if name in ("ENV", "ARG") and SECRET.search(text)]
    assert not [text for name, text in instructions if name == "ADD"]
    installed = stages()[f"packages-{target}"][1][-1][1]
    assert "pip install" in installed
    assert "--require-hashes --no-deps --no-build-isolation --requirement requirements.lock" in installed
    assert ("--requirement requirements-cuda.lock" in installed) is (target == "cuda")
    assert list(stages())[-1] == "cpu"  # the default


def test_further_packages_named_in_the_dockerfile_are_in_the_lock() -> None:
    comments = " ".join(re.findall(r"^# (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements-dev.lock").read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for text in re.findall(r'"([a-z0-9 -]+)"', comments) for name in text.split()]
    assert named
    assert set(named) <= set(locked)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Build(Strict):
    context: Literal["."]
    target: Literal["cpu", "cuda"]


class Condition(Strict):
    condition: Literal["service_healthy", "service_completed_successfully"]


class HealthCheck(Strict):
    test: list[str] = []
    disable: bool = False
    interval: str = ""
    timeout: str = ""
    start_period: str = ""
    retries: int = 0


class Service(Strict):
    """The keys of the Compose Specification that the files use."""

    image: str
    build: Build | None = None
    command: list[str] = []
    user: str | None = None
    init: bool = False
    read_only: bool = False
    cap_drop: list[Literal["ALL"]] = []
    security_opt: list[Literal["no-new-privileges:true"]] = []
    restart: Literal["unless-stopped", "no"] | None = None
    working_dir: Literal["/work"] | None = None
    environment: dict[str, str] = {}
    volumes: list[str] = []
    tmpfs: list[str] = []
    networks: list[str] = []
    ports: list[Annotated[str, StringConstraints(pattern=r"^127\.0\.0\.1:\d+:\d+$")]] = []
    depends_on: dict[str, Condition] = {}
    healthcheck: HealthCheck | None = None
    stop_grace_period: str | None = None
    deploy: dict[str, Any] = {}


class Compose(Strict):
    name: str = ""
    services: dict[str, Service]
    networks: dict[str, dict[str, bool]] = {}
    volumes: dict[str, dict[str, str]] = {}
    x_atlas: dict[str, Any] | None = Field(None, alias="x-atlas")
    x_project: dict[str, Any] | None = Field(None, alias="x-project")
    x_client: dict[str, Any] | None = Field(None, alias="x-client")
    x_cuda: dict[str, Any] | None = Field(None, alias="x-cuda")
    x_gpu: dict[str, Any] | None = Field(None, alias="x-gpu")


def compose(name: str) -> Compose:
    return Compose.model_validate(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))


def test_compose_runs_the_images_of_this_version_without_privileges() -> None:
    services = compose("compose.yaml").services
    assert set(services) == {"postgres", "prefect", "deploy", "worker", "serve"}
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", services.pop("postgres").image)
    for service in services.values():
        assert service.image == f"atlas:{PROJECT['version']}"
        assert service.build == Build(context=".", target="cpu")
        assert (service.read_only, service.init, service.cap_drop) == (True, True, ["ALL"])
        assert service.security_opt
        assert service.user == "${ATLAS_UID:-1000}:${ATLAS_GID:-1000}"
        assert "/tmp" in service.tmpfs
    overrides = compose("compose.cuda.yaml").services
    assert set(overrides) == set(services)
    assert {each.image for each in overrides.values()} == {f"atlas:{PROJECT['version']}-cuda"}
    assert [name for name, each in overrides.items() if each.deploy] == ["worker", "serve"]


def test_compose_has_no_secrets_and_its_parts_fit_together() -> None:
    found = compose("compose.yaml")
    for name, service in found.services.items():
        for key, value in service.environment.items():
            assert not SECRET.search(key) or value.startswith("${"), f"{name}: {key}"
        assert set(service.depends_on) <= set(found.services)
        assert set(service.networks) <= {*found.networks, "default"}
        for other, condition in service.depends_on.items():
            assert condition.condition != "service_healthy" or found.services[other].healthcheck
    assert found.services["postgres"].networks == ["database"]
    assert found.networks["database"] == {"internal": True}
    pool, deployment = "process", yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"][0]
    assert (deployment["name"], deployment["work_pool"]["name"]) == (pool, pool)
    assert f"--pool {pool}" in shlex.join(found.services["worker"].command)
    script = found.services["deploy"].command[-1]
    assert f"work-pool create {pool}" in script
    assert f"deploy --name {pool}" in script
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
    retention = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["pipeline"]["retention_days"]
    kept = found.services["prefect"].environment["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"]
    assert int(kept) == retention * 24 * 3600


@pytest.mark.slow
def test_layout_of_the_image_predicts(tmp_path: Path) -> None:
    """The wheel, built from what the Dockerfile copies, in an own virtual environment, started in an empty folder."""
    source, venv, work = tmp_path / "build", tmp_path / "opt/atlas", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    for name, arguments in stages()["wheel"][1]:
        if name == "COPY":
            for each in arguments.split()[:-1]:
                copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copy
                (source / each).parent.mkdir(parents=True, exist_ok=True)
                copy(ROOT / each, source / each)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path / "wheels")]
    subprocess.run([*pip, *build, str(source)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    install = [
        "install",
        "--quiet",
        "--ignore-installed",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--root-user-action",
        "ignore",
    ]
    subprocess.run([*pip, "--python", str(venv / "bin/python"), *install, str(wheel)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    # The packages of requirements.lock are those of this environment; its .pth files are not read, so the code is
    # that of the wheel.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    environment = {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def run(*command: str) -> str:
        found = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        return found.stdout

    assert run("atlas", "--version").split() == ["atlas", PROJECT["version"]]
    assert Path(run("python", "-c", "import flows; print(flows.__file__)").strip()).is_relative_to(venv)
    shutil.copy(next((ROOT / "docs").glob("attention.png")), work / "some.png")
    answer = run("atlas", "predict", "some.png", "--top", "1").split("\t")
    assert answer[0] == "some.png"
    assert 0 < float(answer[1]) <= 1
    # The image's command on loopback and a free port; an engine is not measured.
    command = [*json.loads(dict(with_parents("cpu"))["CMD"])[:2], "--port", "0", "--engine", "torch"]
    with subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            url = next(found[0] for line in service.stdout if (found := re.search(r"http://[\w.:]+", line)))
            with urllib.request.urlopen(f"{url}/v2/health/live", timeout=30) as response:
                assert response.status == 200
        finally:
            service.terminate()
            service.communicate()
