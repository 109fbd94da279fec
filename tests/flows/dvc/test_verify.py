"""Every flipped byte of a tracked file is found, also where DVC and git see no change; the remedies bring it back."""

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas_model.core.processes import Process
from atlas_model.data.reviews import ZoomDecision, append_record
from flows.cli.main import main
from flows.dvc import verify as verify_module
from flows.dvc.ended_stages import ENDED
from flows.dvc.pipeline_lock import flow_lock, stage_lock
from flows.dvc.verify import Fault, verify
from tests.support.unreadable import unreadable

FLIPS = 1000
DVC_YAML = """
stages:
  make:
    cmd: cp -r source/. out && cp source/1.bin single.bin && echo 12345678 > metrics/make.json
    deps: [source]
    outs: [out, single.bin]
    metrics: [{metrics/make.json: {cache: false}}]
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which one stage has run and everything is committed."""
    folder = tmp_path_factory.mktemp("project")
    draw = random.Random(1)
    for name in ("source", "metrics", "models/bundled"):
        (folder / name).mkdir(parents=True)
    for number in range(20):
        (folder / "source" / f"{number}.bin").write_bytes(draw.randbytes(200 + number))
    weights = folder / "models/bundled/weights of 'a' model"
    weights.write_bytes(draw.randbytes(300))
    os.utime(weights, (1_000_000_000, 1_000_000_000))  # git reads a file again that is as new as its index
    (folder / "dvc.yaml").write_text(DVC_YAML)
    run(folder, "git init -q . && dvc init -q && dvc config core.analytics false && dvc repro && git add -A")
    run(folder, "git config core.checkStat minimal")  # `flip` changes the ctime, which damage by a disk does not
    run(folder, "git -c user.name=a -c user.email=a@example.org commit -qm 'First run'")
    return folder


@pytest.fixture
def project(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(original, tmp_path / "project", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path / "project")
    run(Path(), "dvc status -q; git status >/dev/null")  # they note the sizes and times of the copies
    yield tmp_path / "project"


def run(folder: Path, command: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def flip(path: Path, position: int) -> None:
    """Change one bit, as a disk would: size and time stay."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << position % 8]))
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def tracked() -> list[Path]:
    """Every file that the project tracks as data, with the copies in DVC's cache."""
    found = [path for name in ("out", "metrics", "models", ".dvc/cache/files") for path in Path(name).rglob("*")]
    return sorted([Path("single.bin"), *(path for path in found if path.is_file())])


def faults() -> dict[Path, Fault]:
    return {fault.path: fault for fault in verify().faults}


def test_a_sound_project_has_no_faults(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    assert f"verified: {len(tracked())} files, 0 damaged" in capsys.readouterr().err


def test_each_flipped_byte_is_found_and_its_file_named(project: Path) -> None:
    draw, flipped = random.Random(2), 0
    lists = [path for path in tracked() if path.suffix == ".dir"]
    while flipped < FLIPS:
        # A damaged list of a folder's files hides which of them is damaged: it is flipped alone.
        for chosen in ([path for path in tracked() if path not in lists], lists):
            kept = {path: path.read_bytes() for path in chosen}
            for path, content in kept.items():
                flip(path, draw.randrange(len(content)))
            assert faults().keys() == kept.keys()
            for path, content in kept.items():
                path.chmod(0o644)
                path.write_bytes(content)
            flipped += len(chosen)
    assert faults() == {}


def test_records_of_reviews_count_as_sound_before_they_are_committed(project: Path) -> None:
    path = Path("data/reviews/anna.jsonl")
    for number in range(3):
        at = f"2026-11-30T12:00:0{number}.000000Z"
        decision = ZoomDecision(
            id=f"{number:032x}", at=at, reviewer="anna", image_id="a", product_id="p", answer="normal"
        )
        append_record(path.parent, decision)
        if number == 0:
            run(project, "git add data/reviews")
            committed = path.stat().st_size
    assert faults() == {}
    for position in (committed // 2, committed + committed // 2):  # in a record that git has, and in a newer one
        kept = path.read_bytes()
        flip(path, position)
        assert faults().keys() == {path}
        path.write_bytes(kept)


def test_dvc_and_git_do_not_see_such_damage(project: Path) -> None:
    for name in ("out/3.bin", "single.bin", "models/bundled/weights of 'a' model"):
        flip(Path(name), 5)
    assert run(project, "dvc status; git status --short -- models") == "Data and pipelines are up to date.\n"
    assert len(faults()) == 3


def cached(name: str) -> Path:
    """The copy of an output in DVC's cache."""
    content = Path(name).read_bytes()
    return next(path for path in Path(".dvc/cache").rglob("*") if path.is_file() and path.read_bytes() == content)


@pytest.mark.parametrize(
    "case",
    [
        "output",
        "single",
        "in git",
        "metrics",
        "copy",
        "copy of metrics",
        "list",
        "output and copy",
        "output and list",
        "missing",
    ],
)
def test_the_remedy_brings_the_file_back(case: str, project: Path) -> None:
    output, single, weights = Path("out/3.bin"), Path("single.bin"), Path("models/bundled/weights of 'a' model")
    a_list = next(Path(".dvc/cache").rglob("*.dir"))
    damaged = {
        "output": [output],
        "single": [single],
        "in git": [weights],
        "metrics": [Path("metrics/make.json")],
        "copy": [cached("out/3.bin")],
        "copy of metrics": [cached("metrics/make.json")],
        "list": [a_list],
        "output and copy": [output, cached("out/3.bin")],
        "output and list": [output, a_list],
        "missing": [],
    }[case]
    for path in damaged:
        flip(path, 7)
    if case == "missing":
        output.unlink()
    found = verify().faults
    assert {fault.path for fault in found} >= set(damaged) - {output if case == "output and list" else None}
    for fault in found:
        run(project, fault.remedy.removeprefix("if you did not change it: "))
        if not verify().faults:
            break
    assert faults() == {}
    assert output.read_bytes() == Path("source/3.bin").read_bytes()


def test_exit_code_and_text_name_the_file_and_the_remedy(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(Path("out/3.bin"), 0)
    assert main(["verify"]) == 1
    written = capsys.readouterr()
    assert written.out.startswith("out/3.bin: damaged, expected ")
    assert "rm -f out/3.bin && dvc checkout out" in written.out
    assert "1 damaged or missing" in written.err


def test_a_fresh_clone_has_nothing_damaged(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("out")
    Path("single.bin").unlink()
    shutil.rmtree(".dvc/cache")
    assert main(["verify"]) == 0
    assert "not here: 2 outputs" in capsys.readouterr().err


def write_anew() -> None:
    """Replace the outputs of the stage, as a run does."""
    for path in [Path("single.bin"), *Path("out").iterdir()]:
        path.chmod(0o644)
        path.write_bytes(b"new " + path.read_bytes())


def test_outputs_are_not_compared_while_a_pipeline_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_anew()
    with flow_lock(pytest.fail):
        assert main(["verify"]) == 0
    assert "in use, not verified: out, single.bin, metrics/make.json. Run again" in capsys.readouterr().err
    with stage_lock(Process.current()):
        pass
    assert verify().busy == [Path("out"), Path("single.bin"), Path("metrics/make.json")], "DVC is between two stages"


def test_outputs_of_a_run_that_starts_meanwhile_are_not_damaged(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run also ends before the last file has been read."""
    compare = verify_module._Check._compare

    def start(check: verify_module._Check, path: Path, content: str) -> str | None:
        if Path("out/3.bin").stat().st_size < 210:
            write_anew()
            Path("dvc.lock").write_text(Path("dvc.lock").read_text() + "\n")
        return compare(check, path, content)

    monkeypatch.setattr(verify_module._Check, "_compare", start)
    found = verify()
    assert found.faults == []
    assert Path("out") in found.busy


def test_outputs_of_a_stage_that_dvc_could_not_record_are_not_damaged(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_anew()
    ENDED.mkdir(parents=True)
    (ENDED / "make").touch()
    assert main(["verify"]) == 0
    assert "not recorded yet, not verified: out, single.bin. DVC was killed" in capsys.readouterr().err
    os.utime("dvc.lock")
    assert len(faults()) > 20, "once a run has been recorded, they are changed or damaged"


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.EIO, "unreadable", "out/3.bin: cannot be read: the disk reports an error, expected"),
        (errno.EACCES, "denied", "out/3.bin: cannot be read: no permission, expected"),
    ],
)
def test_files_that_cannot_be_read_are_named_and_the_others_read(
    number: int,
    kind: str,
    text: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy, weights = cached("out/3.bin").resolve(), Path("models/bundled/weights of 'a' model")
    flip(Path("out/4.bin"), 3)
    with unreadable(monkeypatch, number, Path("out/3.bin"), copy, weights):
        assert main(["verify"]) == 1
        assert text in capsys.readouterr().out
        found = faults()
    assert {path.resolve(): fault.kind for path, fault in found.items()} == {
        Path("out/3.bin").resolve(): kind,
        copy: kind,
        weights.resolve(): kind,
        Path("out/4.bin").resolve(): "damaged",
    }
    a_list = next(Path(".dvc/cache").rglob("*.dir"))
    with unreadable(monkeypatch, number, Path("out/3.bin"), a_list):
        assert {Path("out/3.bin"), a_list} <= faults().keys()


@pytest.mark.parametrize("source", ["remote", "stage"])
def test_damage_here_and_elsewhere_in_the_cache_has_one_remedy(source: str, project: Path) -> None:
    """The remedies are run in turn, without a look in between: none of them records damage as the content."""
    if source == "remote":
        remote = project.parent / "remote"
        run(project, f"mkdir {remote} && dvc remote add -q -d store {remote} && dvc push -q")
    expected = Path("dvc.lock").read_text()
    flip(Path("out/3.bin"), 7)
    flip(cached("out/5.bin"), 7)
    found = verify().faults
    assert not any("dvc commit" in fault.remedy for fault in found)
    assert len({fault.remedy for fault in found}) == 1
    for fault in found:
        run(project, fault.remedy)
    assert faults() == {}
    assert Path("dvc.lock").read_text() == expected
    assert Path("out/3.bin").read_bytes() == Path("source/3.bin").read_bytes()


def test_copies_are_not_made_anew_from_a_stage_with_another_damaged_output(project: Path) -> None:
    flip(Path("out/3.bin"), 7)
    flip(cached("single.bin"), 7)
    found = faults()
    assert not any("dvc commit" in fault.remedy for fault in found.values())
    shutil.rmtree("out")
    assert not any("dvc commit" in fault.remedy for fault in faults().values()), "it would record that out is missing"


def test_data_of_a_user_are_not_brought_back_by_a_promotion(project: Path) -> None:
    Path("photos").mkdir()
    Path("photos/a.jpg").write_bytes(b"an image")
    run(project, "dvc add -q photos")
    damaged = Path("photos/a.jpg"), cached("photos/a.jpg")
    for path in damaged:
        flip(path, 0)
    for path in damaged:
        assert faults()[path].remedy.startswith("restore photos from where it came from")
    run(project, f"mkdir {project.parent}/remote && dvc remote add -q -d store {project.parent}/remote")
    assert faults()[damaged[0]].remedy.endswith(" && dvc pull photos.dvc")
    Path("models/champion").mkdir()
    Path("models/champion/model.json").write_text("{}")
    run(project, "dvc remote remove store && dvc add -q models/champion")
    for path in (Path("models/champion/model.json"), cached("models/champion/model.json")):
        flip(path, 0)
    assert faults()[Path("models/champion/model.json")].remedy.endswith("&& atlas promote --force")
