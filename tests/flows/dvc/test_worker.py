"""DVC in its child process, on a small project."""

import os
import signal
from pathlib import Path

import pytest

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.processes import Process
from flows.dvc.repo import DvcBusyError, failure
from flows.dvc.worker import DvcChild
from tests.support.flow_projects import runs_of, started
from tests.support.waiting import wait_until

LOG = Path(".atlas/logs/crawl.log")
SPEAKING_STAGE = """
import os, subprocess, sys
from pathlib import Path
assert sys.stdin.read() == "", "the questions to DVC are not for a stage"
print("given:", os.environ["GIVEN"])
if Path("die").exists():
    os.kill(int(Path("die").read_text()), 9)
Path(sys.argv[2]).mkdir(parents=True)
Path(sys.argv[2], "a").write_text("a")
sys.stdout.write("no end of line")
sys.stdout.flush()
if Path("linger").exists():
    Path("linger").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
"""


@pytest.fixture
def mini(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(mini_project)
    return mini_project


@pytest.mark.slow
def test_runs_stages_one_after_another(mini: Path) -> None:
    (mini / "stage.py").write_text(SPEAKING_STAGE)
    lines: list[str] = []
    with DvcChild() as dvc:
        pipeline = dvc.inspect()
        assert pipeline.needs == {"crawl": [], "zoom_train": [], "split": ["crawl", "zoom_train"]}
        assert list(pipeline.needs)[-1] == "split"
        assert pipeline.changed == {"crawl", "zoom_train", "split"}
        dvc.run_stage("crawl", lines.append, LOG, {"GIVEN": "a word"})
        assert not dvc.is_changed("crawl")
        assert dvc.is_changed("split")
        assert dvc.inspect().changed == {"zoom_train", "split"}
        with pytest.raises(AtlasError, match=r"stage zoom_train failed: (.*\n)*Its log: \.atlas/logs/zoom_train\.log"):
            dvc.run_stage("zoom_train", lines.append, LOG.with_name("zoom_train.log"), {})
    assert "given: a word" in lines
    assert any(line.startswith("no end of line") for line in lines)
    assert "given: a word" in LOG.read_text().splitlines()
    assert any("KeyError: 'GIVEN'" in line for line in lines), "what one stage was given is not the next one's"


@pytest.mark.slow
def test_does_not_wait_for_background_processes_of_stages(mini: Path) -> None:
    (mini / "stage.py").write_text(SPEAKING_STAGE)
    (mini / "linger").touch()
    with DvcChild() as dvc:
        dvc.run_stage("crawl", lambda line: None, LOG, {"GIVEN": ""})
    left = Process.of(int((mini / "linger").read_text()))
    assert left is not None, "it has the output still open"
    os.kill(left.pid, signal.SIGKILL)


def test_reports_invalid_dvc_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\nno_scm = true\n")
    (tmp_path / "dvc.yaml").write_text("stages: {crawl: {cmd: 'true', depz: [a]}}")
    with DvcChild() as dvc, pytest.raises(InputError, match=r"dvc.yaml.*extra keys not allowed .*depz"):
        dvc.inspect()


DVC_SAYS = "failed to reproduce 'crawl': failed to run: x, exited with"


@pytest.mark.parametrize(
    ("output", "kind", "text"),
    [
        (
            f"error: a hiccup\nall is well\nerror: a\x1b fault\n  - place\nERROR: {DVC_SAYS} 2",
            InputError,
            "a� fault\n  - place",
        ),
        (f"ERROR: Unable to acquire lock of mine\nERROR: {DVC_SAYS} 1", AtlasError, f"{DVC_SAYS} 1"),
        (f"ERROR: {DVC_SAYS} -9", AtlasError, f"{DVC_SAYS} -9 (it was killed: out of memory?)"),
        ("", AtlasError, "DVC gave no reason"),
    ],
    ids=["last words", "somebody else's lock", "killed", "silent"],
)
def test_classifies_stage_failures(output: str, kind: type[AtlasError], text: str) -> None:
    error = failure("crawl", output)
    assert type(error) is kind
    assert f": {text}\n" in str(error)


def test_reports_missing_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with DvcChild() as dvc, pytest.raises(InputError, match="DVC"):
        dvc.inspect()


@pytest.mark.slow
def test_names_the_process_that_holds_the_dvc_lock(mini: Path, tmp_path: Path) -> None:
    (mini / "hang-crawl").touch()
    with started(["dvc", "repro"], mini, tmp_path / "log") as other, DvcChild() as dvc:
        wait_until(lambda: runs_of(mini), (tmp_path / "log").read_text)
        with pytest.raises(DvcBusyError, match=rf"pid {other.pid}: "):
            dvc.inspect()
        with pytest.raises(DvcBusyError, match=rf"pid {other.pid}: "):
            dvc.run_stage("crawl", lambda line: None, LOG, {})


@pytest.mark.slow
def test_reports_unexpected_end_of_child(mini: Path) -> None:
    (mini / "stage.py").write_text(SPEAKING_STAGE)
    with DvcChild() as dvc:
        dvc.inspect()
        (mini / "die").write_text(str(dvc._process.pid))
        with pytest.raises(AtlasError, match="has ended"):
            dvc.run_stage("crawl", lambda line: None, LOG, {"GIVEN": ""})
