"""The locks: what they hold for each supported Python, and how tools/lock.py resolves them with a real pip."""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools import lock

PYTHONS = lock.supported()
PROJECT = tomllib.loads((lock.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}


def pins(text: str, python: str) -> dict[str, str]:
    """Version by name, as pip reads a lock on ``python``; each name stands there once."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "--")):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(environment(python)):
                assert pin.name not in found, f"{pin.name} is pinned twice for Python {python}"
                found[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


def lock_of(part: str) -> str:
    return (lock.ROOT / part).read_text(encoding="utf-8")


def declared(*extras: str) -> list[Requirement]:
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, EXTRAS[extra]):
            found += declared(*requirement.extras) if requirement.name == "atlas" else [requirement]
    return found


def test_supported_pythons_are_those_of_requires_python() -> None:
    wanted = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}.0" in wanted] == PYTHONS


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("parts", "extras"), [(["requirements.lock"], ["lite"]), (["requirements.lock", "requirements-dev.lock"], ["dev"])]
)
def test_locks_pin_every_declared_dependency(parts: list[str], extras: list[str], python: str) -> None:
    found = pins("".join(map(lock_of, parts)), python)
    wanted = [each for each in declared(*extras) if each.marker is None or each.marker.evaluate(environment(python))]
    assert len(wanted) > 20
    for requirement in wanted:
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement}: not in {parts}; run `make lock`"
        assert version in requirement.specifier, f"{requirement}: {parts} have {version}; run `make lock`"


def test_run_lock_has_no_test_tools_or_unused_extras() -> None:
    text = lock_of("requirements.lock")
    for name in ("pytest", "ruff", "mypy", "import-linter", "moto", "playwright", "openvino", "onnxruntime", "timm"):
        assert not re.search(rf"^{name}==", text, flags=re.MULTILINE), name
        assert re.search(rf"^{name}==", lock_of("requirements-dev.lock"), flags=re.MULTILINE), name


@pytest.mark.parametrize("part", lock.LOCKS)
def test_locks_name_no_torch_build_and_no_cuda_package(part: str) -> None:
    assert "+" not in lock_of(part)
    for python in PYTHONS:
        assert all(lock.kept(name) for name in pins(lock_of(part), python))


def test_markers_select_the_version_resolved_for_each_python() -> None:
    pythons = ["3.11", "3.12", "3.13", "3.14"]
    wanted = {
        "3.11": {"all": "1", "old": "1", "moved": "1", "odd": "1"},
        "3.12": {"all": "1", "middle": "3", "moved": "2"},
        "3.13": {"all": "1", "middle": "3", "moved": "2", "odd": "1"},
        "3.14": {"all": "1", "new": "4", "moved": "2"},
    }
    written = lock.lines(wanted, {"old": "1"}, pythons)
    assert "all==1\n" in written
    assert written[:2] == ["--only-binary :all:\n", "--no-binary old\n"]
    for python in pythons:
        assert pins("".join(written), python) == wanted[python]


def wheel(folder: Path, name: str, version: str, *requires: str, tag: str = "py3-none-any") -> None:
    """A package that pip can resolve and install."""
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: new\nProvides-Extra: more"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as file:
        file.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        file.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of one folder, and nothing else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_python_versions_share_pins_where_possible(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(offline, "demo", "1.0", "moved", "same", "backport; python_version < '3.14'", "news[more]; extra == 'new'")
    wheel(offline, "news", "1.0", "same", "thing; extra == 'more'")
    for name in ("thing", "unused", "same"):
        wheel(offline, name, "1.0")
    wheel(offline, "same", "2.0")
    wheel(offline, "moved", "1.0", tag="cp311-none-any")
    wheel(offline, "moved", "2.0", tag="cp314-none-any")
    wheel(offline, "backport", "1.0", tag="cp311-none-any")
    monkeypatch.setattr(lock, "DEV", ["demo[new]", "unused"])
    work = offline / "work"
    work.mkdir()

    found = lock.resolve_alike("3.14", {"moved": "1.0", "same": "1.0", "backport": "1.0"}, work)

    assert found.environment["python_version"] == "3.14"
    assert found.versions() == {
        "demo": "1.0", "moved": "2.0", "news": "1.0", "same": "1.0", "thing": "1.0", "unused": "1.0"
    }  # fmt: skip
    assert found.needed(["demo[new]"]) == {"demo", "moved", "same", "news", "thing"}
    assert found.needed(["demo"]) == {"demo", "moved", "same"}


@pytest.mark.slow
def test_unresolvable_pins_are_named(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(offline, "demo", "1.0", tag="cp311-none-any")
    monkeypatch.setattr(lock, "DEV", ["demo"])
    with pytest.raises(lock.LockError, match=r"Python 3\.12: (.|\n)*No matching distribution found for demo"):
        lock.resolve_alike("3.12", {}, offline)
