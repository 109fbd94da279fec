"""Every flipped byte of a tracked file is found, also where DVC and git see no change; the remedies bring it back."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas_model.data.reviews import ZoomDecision, append_record
from flows.cli.main import main
from flows.dvc.verify import Fault, verify

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
