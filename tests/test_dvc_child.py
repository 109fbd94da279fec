"""DVC in its child process, on a small project."""

from pathlib import Path

import pytest

from atlas_model.errors import AtlasError, InputError
from flows.dvc_child import DvcChild
from flows.dvc_repo import DvcBusyError
from tests.flow_projects import runs_of, started, wait_until

LOG = Path(".atlas/logs/crawl.log")
SPEAKING_STAGE = """
import os, sys
from pathlib import Path
assert sys.stdin.read() == "", "the questions to DVC are not for a stage"
print("given:", os.environ["GIVEN"])
if Path("die").exists():
    os.kill(int(Path("die").read_text()), 9)
Path(sys.argv[2]).mkdir(parents=True)
Path(sys.argv[2], "a").write_text("a")
sys.stdout.write("no end of line")
"""


@pytest.fixture
def mini(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(mini_project)
    return mini_project


@pytest.mark.slow
def test_stages_run_one_after_another(mini: Path) -> None:
    (mini / "stage.py").write_text(SPEAKING_STAGE)
    lines: list[str] = []
    with DvcChild() as dvc:
        pipeline = dvc.look()
        assert pipeline.needs == {"crawl": [], "zoom_train": [], "split": ["crawl", "zoom_train"]}
        assert list(pipeline.needs)[-1] == "split"
        assert pipeline.changed == {"crawl", "zoom_train", "split"}
        dvc.run_stage("crawl", lines.append, LOG, {"GIVEN": "a word"})
        assert not dvc.is_changed("crawl")
        assert dvc.is_changed("split")
        assert dvc.look().changed == {"zoom_train", "split"}
        with pytest.raises(AtlasError, match=r"stage zoom_train failed: (.*\n)*Its log: \.atlas/logs/zoom_train\.log"):
            dvc.run_stage("zoom_train", lines.append, LOG.with_name("zoom_train.log"), {})
    assert "given: a word" in lines
    assert any(line.startswith("no end of line") for line in lines)
    assert "given: a word" in LOG.read_text().splitlines()
    assert any("KeyError: 'GIVEN'" in line for line in lines), "what one stage was given is not the next one's"


def test_what_is_no_project_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with DvcChild() as dvc, pytest.raises(InputError, match="DVC"):
        dvc.look()


@pytest.mark.slow
def test_another_dvc_at_work_is_named(mini: Path, tmp_path: Path) -> None:
    (mini / "hang-crawl").touch()
    with started(["dvc", "repro"], mini, tmp_path / "log") as other, DvcChild() as dvc:
        wait_until(lambda: runs_of(mini), (tmp_path / "log").read_text)
        with pytest.raises(DvcBusyError, match=rf"pid {other.pid}: "):
            dvc.look()
        with pytest.raises(DvcBusyError, match=rf"pid {other.pid}: "):
            dvc.run_stage("crawl", lambda line: None, LOG, {})


@pytest.mark.slow
def test_the_end_of_the_child_is_told(mini: Path) -> None:
    (mini / "stage.py").write_text(SPEAKING_STAGE)
    with DvcChild() as dvc:
        dvc.look()
        (mini / "die").write_text(str(dvc._process.pid))
        with pytest.raises(AtlasError, match="has ended"):
            dvc.run_stage("crawl", lambda line: None, LOG, {"GIVEN": ""})
