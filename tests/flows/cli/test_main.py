"""The `atlas` command, as people call it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from atlas_model.core.checkpoint import WEIGHTS, read_description, save_model
from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from flows.cli.main import main
from flows.registry.model_folders import bundled_model
from flows.text import printable
from tests.support.paths import ROOT

ATLAS = Path(sys.executable).with_name("atlas")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: whatever it answers is a path of its taxonomy."""
    folder = tmp_path_factory.mktemp("models") / "some"
    torch.manual_seed(1)
    taxonomy = Taxonomy([("A", "B"), ("A", "C"), ("D",)])
    architecture = Architecture("small", 1, "native", 8, 8, 8, 0.0)
    save(
        Categorizer(architecture, taxonomy),
        folder,
        Preprocessing(size=28, mode="L", resize="squash"),
        params={},
        metrics={},
    )
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image(path: Path, seed: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 20), dtype=np.uint8)).save(path)
    return path


def run(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([ATLAS, *arguments], input=stdin, capture_output=True, timeout=120, check=False)


# --- predict


def test_predict_takes_files_and_folders(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single = image(here / "b.png")
    inside = [image(here / "folder" / name, seed) for seed, name in enumerate(["z.JPG", "deep/a.png"])]
    (here / "folder/notes.txt").write_text("no image, and not called one")
    assert main(["predict", str(single), str(here / "folder"), "--model", str(model), "--top", "2"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in (single, *sorted(inside)) for _ in range(2)]
    assert {row[2] for row in rows} <= {"A > B", "A > C", "D"}
    probabilities = [float(row[1]) for row in rows]
    assert all(0 <= second <= first <= 1 for first, second in zip(probabilities[::2], probabilities[1::2], strict=True))
    assert err == f"model: {model}\n1 file skipped, whose names have no suffix of a supported image format: .txt 1\n"


def test_predict_json_prints_one_object_per_image(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [image(here / f"{name}.png", seed) for seed, name in enumerate("ab")]
    assert main(["predict", *map(str, paths), "--model", str(model), "--top", "9", "--beam", "1", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    for row in rows:
        assert sorted(tuple(found["path"]) for found in row["predictions"]) == [("A", "B"), ("A", "C"), ("D",)]
        assert 0 < sum(found["probability"] for found in row["predictions"]) <= 1


def test_predict_reports_invalid_images_and_continues(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "page.jpg").write_text("<html>")
    (here / "empty.png").touch()
    good = image(here / "good.png")
    names = ["page.jpg", "missing.png", "good.png", "good.png", "empty.png", "nul\0.png"]
    assert main(["predict", *names, "--model", str(model)]) == 2
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [good.name] * 2
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [error.split(": ")[1] for error in errors] == [
        "page.jpg",
        "missing.png",
        "empty.png",
        "nul\N{REPLACEMENT CHARACTER}.png",
    ]
    assert "expected an image" in errors[0]
    assert "No such file" in errors[1]
    assert "0 bytes" in errors[2]


def test_predict_draws_attention_for_one_image(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = image(here / "a.png"), image(here / "b.png")
    out = here / "seen.png"
    assert main(["predict", str(first), "--model", str(model), "--attention", str(out)]) == 0
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        whole = drawn.width
    sure = ["--min-confidence", "1", "--attention", str(out)]
    assert main(["predict", str(first), "--model", str(model), *sure]) == 0
    with Image.open(out) as drawn:
        assert drawn.width < whole, "not sure of any level: none is drawn"
    capsys.readouterr()
    assert main(["predict", str(first), str(second), "--model", str(model), "--attention", str(out)]) == 2
    assert "one image" in capsys.readouterr().err
    assert main(["predict", str(first), "--model", str(model), "--attention", str(here / "no/where.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_default_model_is_champion_then_trained_then_bundled(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(image(here / "a.png"))
    assert main(["predict", path]) == 0
    assert capsys.readouterr().err == f"model: {bundled_model()}\n"
    for name in ("categorizer", "champion"):
        shutil.copytree(model, here / "models" / name)
        assert main(["predict", path]) == 0
        assert capsys.readouterr().err == f"model: models/{name}\n"


def test_predict_escapes_control_characters_in_untrusted_names(
    here: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(model / WEIGHTS) | {"\x1b]0;owned\x07": torch.zeros(1)}
    save_model(here / "strange", weights, read_description(model))
    assert main(["predict", str(image(here / "a.png")), "--model", "strange"]) == 2
    error = capsys.readouterr().err
    assert "owned" in error and "\x1b" not in error


def test_predict_refuses_folder_without_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(image(here / "a.png")), "--model", str(here)]) == 2
    assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.parametrize("arguments", [["--top", "0"], ["--beam", "-1"], ["--beam", "many"], ["--beams", "2"]])
def test_invalid_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", "a.png", *arguments])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow
def test_predict_reads_any_bytes_as_paths_from_stdin(here: Path, model: Path) -> None:
    strange = os.fsencode(here) + b"/\xff \x1b[31m.png"
    image(here / "a.png").rename(os.fsdecode(strange))
    image(here / "b.png")
    done = run("predict", "--model", model, stdin=strange + b"\n\n" + os.fsencode(here / "b.png") + b"\r\n")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 2
    assert "\x1b" not in lines[0], "no escape sequence reaches the terminal"
    assert run("predict", "-", "--model", model, stdin=b"missing\n").returncode == 2
    closed = ["sh", "-c", 'exec "$0" "$@" <&-', str(ATLAS), "predict", "--model", str(model)]
    for nothing in (run("predict", "--model", model), subprocess.run(closed, capture_output=True, check=False)):
        assert nothing.returncode == 2
        assert b"error: expected images, got none" in nothing.stderr


def test_printable_escapes_control_characters() -> None:
    assert printable("Größe 38 🙂") == "Größe 38 🙂"
    assert printable("a\x1b[2Jb\u202ec\nd\udcff") == "a\ufffd[2Jb\ufffdc\ufffdd\ufffd"


# --- the others


def test_check_reports_errors_of_all_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "params.yaml", here)
    shutil.copytree(ROOT / "data", here / "data")
    assert main(["check"]) == 0
    out, err = capsys.readouterr()
    assert out.count(": ok\n") == 4
    assert err == ""

    taxonomy = (here / "data/taxonomy.csv").read_text()
    (here / "data/taxonomy.csv").write_text(f"{taxonomy}Clothing > Tops > T-Shirt\n")
    assert main(["check"]) == 0
    assert (
        "look alike but differ in their characters, so they count as different categories: 'T-Shirt' and 'T-shirt'"
        in capsys.readouterr().err
    )

    (here / "data/taxonomy.csv").write_text("id,parent_id,name\n1,2,A\n2,1,B\n")
    (here / "data/sources.csv").write_text("Category,shop\nA->B,http://shop.example\n")
    assert main(["check"]) == 2
    err = capsys.readouterr().err
    assert "data/taxonomy.csv: " in err
    assert "cycle" in err
    assert "data/sources.csv" in err

    params = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text(
        params.replace("source: demo", "source: manifest").replace("manifest: data/manifest.json", "manifest: m.json")
    )
    (here / "m.json").write_text("not JSON")
    assert main(["check"]) == 2
    assert "m.json" in capsys.readouterr().err

    (here / "params.yaml").write_text(params.replace("source: demo", "source: shops"))
    assert main(["check"]) == 2
    assert "data/zoom/labelled: expected labelled images of your own" in capsys.readouterr().err

    (here / "params.yaml").write_text(params.replace("beam: 5", "beam: five"))
    assert main(["check"]) == 2
    assert "evaluate.beam" in capsys.readouterr().err


def test_import_manifest_reports_errors(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "params.yaml", here)
    (here / "m.json").write_text("[{")
    assert main(["import-manifest", "m.json", "--output", "labelled"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: " in err
    assert "m.json" in err
    assert not (here / "labelled").exists()


def test_version_and_usage() -> None:
    assert run("--version").stdout.decode() == f"atlas {version('atlas')}\n"
    nothing = run()
    assert nothing.returncode == 2
    assert b"usage: atlas" in nothing.stderr


def test_help_imports_no_heavy_libraries() -> None:
    program = (
        "import sys\nfrom flows.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "'flows.cli.main'" in loaded
    for heavy in ("torch", "pyarrow", "prefect", "dvc", "scrapy", "PIL"):
        assert f"'{heavy}'" not in loaded


def test_closed_output_pipe_is_no_error(here: Path, model: Path) -> None:
    names = "".join(f"{image(here / f'{number}.png', number)}\n" for number in range(3)).encode()
    command = f"'{ATLAS}' predict --model '{model}' --top 3; echo $? >&2"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            ["sh", "-c", command],
            input=names,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            check=False,
        )
    assert done.stderr.decode().splitlines() == [f"model: {model}", "141"]


def test_ctrl_c_ends_without_traceback(here: Path, model: Path) -> None:
    command = [str(ATLAS), "predict", "--model", str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        assert process.stderr.readline().startswith(b"model: ")
        time.sleep(0.5)  # it loads the model, then waits for paths
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == b""
