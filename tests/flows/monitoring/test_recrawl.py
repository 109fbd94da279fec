"""A crawl is pinned by its name in params.yaml: who changes it, and what DVC makes of that."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml

from atlas_model.core.errors import AtlasError, ParamsError
from atlas_model.core.params import load_params, set_snapshot
from flows import paths
from flows.dvc import repo
from flows.monitoring.recrawl import start_new_crawl
from tests.support.paths import ROOT

NIGHT = datetime(2026, 11, 22, 3, tzinfo=UTC)
NAME = "2026-11-22T030000Z"
LINE = "  snapshot: sample-1  "


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's params.yaml alone in a folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    assert LINE in Path("params.yaml").read_text()
    return Path("params.yaml")


def lock(snapshot: str) -> None:
    """A dvc.lock that says that the data are of ``snapshot``."""
    crawl = {"cmd": "true", "params": {"params.yaml": {"crawl": {"source": "demo", "snapshot": snapshot}}}}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"crawl": crawl, "fetch": {"cmd": "true"}}}))


# --- the name in params.yaml


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        (LINE, f"  snapshot: {NAME}  "),
        ("  snapshot:    'sample-1' # no", f"  snapshot:    '{NAME}' # no"),
        ('  "snapshot": "sample-1"', f'  "snapshot": "{NAME}"'),
        ("  snapshot:\n    # where\n    sample-1 ", f"  snapshot:\n    # where\n    {NAME} "),
    ],
    ids=["plain", "quoted", "double", "next line"],
)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_replaces_snapshot_name_only(params: Path, written: str, becomes: str, ending: bytes) -> None:
    before = params.read_text().replace(LINE, written).replace("# how far", "# \u00fc\N{GRINNING FACE} how far")
    bytes_before = b"\xef\xbb\xbf" + before.encode().replace(b"\n", ending).rstrip()
    params.write_bytes(bytes_before)
    params.chmod(0o664)
    assert start_new_crawl(NIGHT) == ("sample-1", NAME)
    changed = bytes_before.replace(written.encode().replace(b"\n", ending), becomes.encode().replace(b"\n", ending))
    assert params.read_bytes() == changed
    assert params.stat().st_mode & 0o777 == 0o664
    assert load_params().crawl.snapshot == NAME
    assert list(Path().iterdir()) == [Path("params.yaml")]


def test_finds_snapshot_in_inline_mapping_and_symlinked_file(params: Path) -> None:
    content = yaml.safe_dump(yaml.safe_load(params.read_text()), default_flow_style=True, width=10_000)
    assert " snapshot: sample-1, source: demo" in content
    Path("real").mkdir()
    Path("real/params.yaml").write_text(content)
    params.unlink()
    params.symlink_to("real/params.yaml")
    set_snapshot("two")
    assert Path("real/params.yaml").read_text() == content.replace("snapshot: sample-1", "snapshot: two")
    assert params.is_symlink()


@pytest.mark.parametrize(
    "written",
    [
        "  snapshot: &name sample-1  ",
        "  snapshot: !!str sample-1  ",
        "  snapshot: >-\n    sample-1\n  #",
        '  snapshot: "sample\\x2d1"  ',
    ],
    ids=["anchor", "tag", "folded", "escaped"],
)
def test_refuses_snapshot_that_cannot_be_replaced_safely(params: Path, written: str) -> None:
    before = params.read_text().replace(LINE, written)
    params.write_text(before)
    with pytest.raises(ParamsError, match=r"crawl\.snapshot.*Write it"):
        start_new_crawl(NIGHT)
    assert params.read_text() == before
    assert list(Path().iterdir()) == [Path("params.yaml")]


def test_refuses_duplicate_snapshot_keys(params: Path) -> None:
    before = params.read_text().replace(LINE, "  snapshot: one\n  snapshot: sample-1  ")
    params.write_text(before)
    with pytest.raises(ParamsError, match=r"crawl\.snapshot: duplicate key, on lines .*remove one of them"):
        start_new_crawl(NIGHT)
    assert params.read_text() == before


def test_refuses_snapshot_with_yaml_alias(params: Path) -> None:
    before = params.read_text()
    params.write_text(before.replace("source: demo", "source: &x demo").replace(LINE, "  snapshot: *x "))
    with pytest.raises(ParamsError, match=r"crawl\.snapshot: expected a string on one line.*got '&x demo'"):
        start_new_crawl(NIGHT)
    params.write_text(before.replace("crawl:\n", "crawl:\n  <<: {snapshot: sample-1}\n").replace(LINE, "  # "))
    with pytest.raises(ParamsError, match=r"crawl\.snapshot: expected a string on one line.*got 'none'"):
        start_new_crawl(NIGHT)


def test_reports_errors_of_params_yaml(params: Path) -> None:
    params.write_text(params.read_text().replace("timeout_s: 30", "timeout_s: soon"))
    with pytest.raises(ParamsError, match=r"crawl\.timeout_s"):
        start_new_crawl(NIGHT)


# --- which name


def test_snapshot_names_are_unique_timestamps(params: Path) -> None:
    zurich = timezone(timedelta(hours=1))
    assert start_new_crawl(NIGHT.astimezone(zurich)) == ("sample-1", NAME)
    lock(NAME)
    assert start_new_crawl(NIGHT) == (NAME, "2026-11-22T030001Z"), "in the same second"
    lock("2026-11-22T030001Z")
    set_snapshot("sample-1")
    assert start_new_crawl(NIGHT - timedelta(days=400)) == ("2026-11-22T030001Z", "2026-11-22T030002Z"), "a wrong clock"
    lock("2026-11-22T030002Z")
    paths.SNAPSHOTS.mkdir(parents=True)
    (paths.SNAPSHOTS / "2026-11-22T030500Z.parquet").touch()
    assert start_new_crawl(NIGHT)[1] == "2026-11-22T030501Z", "after going back"
    assert isinstance(yaml.safe_load("2026-11-22T030000Z"), str), "no date, which would not be a name"


def test_failed_crawl_resumes_for_up_to_12_hours(params: Path) -> None:
    lock("sample-1")
    assert start_new_crawl(NIGHT) == ("sample-1", NAME)
    before = (params.stat().st_ino, params.stat().st_mtime_ns)
    for hours in (0, 1, 11.9):
        assert start_new_crawl(NIGHT + timedelta(hours=hours)) == ("sample-1", NAME)
    assert (params.stat().st_ino, params.stat().st_mtime_ns) == before
    later = NIGHT + timedelta(hours=12)
    assert start_new_crawl(later) == ("sample-1", "2026-11-22T150000Z"), "compared with the last that has data"


@pytest.mark.parametrize("name", ["by-hand", "2026-13-22T030000Z", "2026-11-22T030000Z-again"])
def test_snapshot_without_timestamp_is_not_resumed(params: Path, name: str) -> None:
    lock("sample-1")
    set_snapshot(name)
    assert start_new_crawl(NIGHT) == ("sample-1", NAME)


# --- what DVC makes of it


def repro(env: dict[str, str]) -> list[str]:
    """Run `dvc repro`; the stages that were really run."""
    path = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, env={**env, "PATH": path}, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return re.findall(r"Running stage '(\w+)'", done.stdout)


@pytest.mark.slow
def test_failed_crawl_keeps_previous_snapshot(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mini_project)
    repo.run_stage("crawl", lambda line: None)
    old, new = start_new_crawl(NIGHT)
    Path("fail-crawl").write_text("RetryError")
    with pytest.raises(AtlasError, match="stage crawl failed"):
        repo.run_stage("crawl", lambda line: None)
    assert repo.locked_snapshot() == old
    assert load_params().crawl.snapshot == new, "so that running again goes on with it"
    assert start_new_crawl(NIGHT + timedelta(hours=1)) == (old, new)
    Path("fail-crawl").unlink()
    repo.run_stage("crawl", lambda line: None)
    assert repo.locked_snapshot() == new
    assert start_new_crawl(NIGHT + timedelta(hours=1)) == (new, "2026-11-22T040000Z")


@pytest.mark.slow
def test_new_snapshot_name_triggers_crawl(params: Path, git_env: dict[str, str]) -> None:
    """A shop that is a file, and a stage after its crawl. tests/system/test_end_to_end.py does it with the demo."""
    crawl = {"cmd": f"cat shop > {paths.PRODUCTS}", "params": ["crawl"], "outs": [str(paths.PRODUCTS)]}
    after = {"cmd": f"cat {paths.PRODUCTS} > after", "deps": [str(paths.PRODUCTS)], "outs": ["after"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"crawl": crawl, "after": after}}))
    paths.PRODUCTS.parent.mkdir(parents=True)
    for arguments in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(arguments, env=git_env, check=True)

    def commit(tag: str) -> None:
        for arguments in (["add", "-A"], ["commit", "-q", "-m", tag], ["tag", tag]):
            subprocess.run(["git", *arguments], env=git_env, check=True)

    Path("shop").write_text("shirts")
    assert repro(git_env) == ["crawl", "after"]
    start_new_crawl(NIGHT)
    assert repro(git_env) == ["crawl"], "the shop is as it was: nothing after it runs"
    commit("shirts")

    Path("shop").write_text("shirts and bags")
    assert repro(git_env) == [], "by itself it never crawls again"
    start_new_crawl(NIGHT + timedelta(days=1))
    assert repro(git_env) == ["crawl", "after"]
    commit("bags")

    Path("shop").unlink()  # nobody can be asked
    subprocess.run(["git", "checkout", "-q", "shirts", "--", "params.yaml", "dvc.lock"], env=git_env, check=True)
    assert repro(git_env) == []
    assert (paths.PRODUCTS.read_text(), repo.locked_snapshot()) == ("shirts", NAME)
    set_snapshot("2026-11-23T030000Z")
    assert repro(git_env) == [], "DVC finds a run by its parameters: the commit is not needed"
    assert Path("after").read_text() == "shirts and bags"
