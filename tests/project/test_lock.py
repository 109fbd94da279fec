"""The locks: what they hold for each supported Python, and how tools/lock.py resolves them with a real pip."""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.support.servers import Reply, Shop, serving
from tools import audit, lock, lock_hashes, set_up

PYTHONS = lock.supported()
PROJECT = tomllib.loads((lock.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}


def entries(text: str) -> list[str]:
    """The entries of a lock: a requirement with its hashes, on one line."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line and not line.startswith(("#", "--"))]


def pins(text: str, python: str) -> dict[str, str]:
    """Version by name, as pip reads a lock on ``python``; each name stands there once."""
    found: dict[str, str] = {}
    for line in entries(text):
        pin = Requirement(line.partition(" --hash")[0])
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


EVERY = (*lock.LOCKS, lock.BUILD_LOCK, lock.CUDA_LOCK)


@pytest.mark.parametrize("part", EVERY)
def test_every_pin_has_hashes_and_no_lock_names_a_host(part: str) -> None:
    text = lock_of(part)
    assert len(entries(text)) >= 4
    for entry in entries(text):
        assert re.search(r" --hash=sha256:[0-9a-f]{64}( |$)", entry), entry
    assert "://" not in text and "@" not in text


def test_locks_accept_both_builds_of_torch() -> None:
    (entry,) = [entry for entry in entries(lock_of("requirements.lock")) if entry.startswith("torch==")]
    wheels = 3 * len(PYTHONS)  # ordinary ones: Linux on two kinds of processors, macOS
    assert entry.count("--hash=sha256:") > wheels, (
        "that of a CPU build as well: run `make lock` where pip has its index"
    )


def test_lock_of_build_tools_agrees_with_that_of_a_run() -> None:
    for python in PYTHONS:
        tools, run = (pins(lock_of(part), python) for part in (lock.BUILD_LOCK, "requirements.lock"))
        assert {"pip", "setuptools", "wheel"} <= tools.keys()
        assert tools.items() <= run.items()


def test_lock_of_cuda_packages_has_only_those() -> None:
    found = pins(lock_of(lock.CUDA_LOCK), PYTHONS[-1])
    assert {"triton", "nvidia-cublas"} <= found.keys()
    assert not any(map(lock.kept, found))


def test_locks_name_all_that_their_packages_require() -> None:
    # They are installed without their requirements (--no-deps), so nothing else would bring a missing one.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = pins("".join(map(lock_of, lock.LOCKS)), python)
    missing = set()
    for name in found:
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                missing.add(canonicalize_name(needed.name))
    assert {name for name in missing - found.keys() if lock.kept(name)} == set()


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


@pytest.mark.parametrize(
    ("file", "fits"),
    [
        ("demo-1.0-py3-none-any.whl", True),
        ("demo-1.0-py2.py3-none-any.whl", True),
        ("demo-1.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl", True),
        ("demo-1.0-cp39-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", True),
        ("demo-1.0-cp314-cp314-macosx_14_0_arm64.whl", True),
        ("demo-1.0-cp310-cp310-manylinux_2_28_x86_64.whl", False),
        ("demo-1.0-cp314-cp314t-manylinux_2_28_x86_64.whl", False),
        ("demo-1.0-cp312-cp312-win_amd64.whl", False),
        ("demo-1.0-cp315-abi3-manylinux_2_28_x86_64.whl", False),
        ("demo-1.0.1-py3-none-any.whl", False),
        ("other-1.0-py3-none-any.whl", False),
        ("demo-1.0.tar.gz", False),
        ("demo-1.0.exe", False),
    ],
)
def test_hashes_are_of_wheels_that_a_supported_machine_can_install(file: str, fits: bool) -> None:
    assert lock_hashes.accepted(file, "demo", "1.0", ["3.11", "3.12", "3.13", "3.14"], source=False) is fits
    source = lock_hashes.accepted(file, "demo", "1.0", ["3.11", "3.12"], source=True)
    assert source is file.endswith(".tar.gz")


def test_hashes_come_from_json_html_and_folders_and_known_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    json_index = {"files": [{"filename": "demo-1.0-py3-none-any.whl", "hashes": {"sha256": "a" * 64}}]}
    page = f'<a href="../demo-1.0%2Bcpu-py3-none-any.whl#sha256={"b" * 64}">demo</a><a href="x">x</a>'
    page += f'<a href="../demo-1.0-py2.py3-none-any.whl#md5={"d" * 32}">demo</a>'
    kinds = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
    shop = Shop({"/json/demo/": Reply(json.dumps(json_index), headers=kinds), "/html/demo/": Reply(page)})
    wheel(tmp_path, "demo", "1.0", tag="cp311-none-any")
    with serving(shop):
        url = f"http://127.0.0.1:{shop.port}"
        monkeypatch.setattr(
            lock_hashes,
            "pip_settings",
            lambda: {"index-url": [f"{url}/json"], "extra-index-url": [f"{url}/html"], "find-links": [str(tmp_path)]},
        )
        hashes = lock_hashes.Hashes(["3.11"], lock_hashes.stored(f"demo==1.0 \\\n    --hash=sha256:{'c' * 64}\n"))
        written = hashes.added_to(["# head\n", 'demo==1.0; python_version < "3.12"\n'], {})
        with pytest.raises(lock_hashes.HashError, match=r"demo==2\.0: no index has a file"):
            hashes.of("demo", "2.0", source=False)
    of_file = hashlib.sha256((tmp_path / "demo-1.0-cp311-none-any.whl").read_bytes()).hexdigest()
    assert written[0] == "# head\n"
    assert re.findall("sha256:(.*?)[ \n]", written[1] + "\n") == sorted(["a" * 64, "b" * 64, "c" * 64, of_file])
    with pytest.raises(lock_hashes.HashError, match=r"the package index 127\.0\.0\.1 cannot be reached") as failed:
        hashes.of("demo", "1.0", source=False)
    assert "http" not in str(failed.value)


@pytest.mark.slow
@pytest.mark.parametrize("tampered", [False, True])
def test_pip_refuses_a_file_with_another_hash(offline: Path, tampered: bool) -> None:
    wheel(offline, "demo", "1.0")
    digest = hashlib.sha256((offline / "demo-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    (offline / "lock").write_text(f"demo==1.0 \\\n    --hash=sha256:{digest}\n")
    if tampered:
        wheel(offline, "demo", "1.0", "evil")
    command = [sys.executable, "-m", "pip", *set_up.LOCKED, "--target", "there", "-r", "lock"]
    done = subprocess.run(command, cwd=offline, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) is tampered, done.stderr
    if tampered:
        assert "demo==1.0: expected the file that the lock names, got one with another SHA-256" in str(
            set_up.fault(done.stderr)
        )
        assert not (offline / "there").exists()


@pytest.mark.parametrize(
    ("packages", "said", "exit_code"),
    [
        ([{"skip_reason": "not found"}], "warning: NOT AUDITED: the package index has no advisories on the 1", 0),
        ([{"vulns": []}], "no known vulnerability in 1 packages", 0),
        ([{"vulns": []}, {"skip_reason": "?"}], "warning: no advisories on 1 packages: demo", 0),
        ([{"vulns": [{"id": "X-1", "fix_versions": ["2"]}]}], "demo 1: X-1, mended in 2", 1),
    ],
)
def test_audit_says_what_it_could_not_compare(packages: list[dict], said: str, exit_code: int) -> None:
    text = json.dumps({"dependencies": [{"name": "demo", "version": "1", **package} for package in packages]})
    lines, code = audit.report(text)
    assert code == exit_code
    assert any(said in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(("locked", "build"), [("2.0+cpu", "2.0+cpu"), ("2.0", "2.0")])
def test_takes_the_build_of_torch_that_pip_prefers_if_its_hash_is_locked(
    locked: str, build: str, offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_up, "VENV", Path(sys.prefix))
    for version in ("2.0", "2.0+cpu"):
        wheel(offline, "torch", version)
    digest = hashlib.sha256((offline / f"torch-{locked}-py3-none-any.whl").read_bytes()).hexdigest()
    file = offline / "requirements.lock"
    file.write_text(f"torch==2.0 \\\n    --hash=sha256:{digest}\n")
    assert set_up.locked_build(file) == build
    assert ("has no hash of torch 2.0+cpu" in capsys.readouterr().err) is (locked == "2.0")
    monkeypatch.setenv("TORCH_INDEX", "http://127.0.0.1:1")
    assert set_up.locked_build(file) == "", "that index is asked, not the lock"
