"""Exported graphs: the same results as torch, for any number of images and hypotheses."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas_model.core import extras
from atlas_model.core.errors import CheckpointError
from atlas_model.data.images import Preprocessing
from atlas_model.encoders.encoder import build_encoder
from atlas_model.inference.export import export_encoder
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.decoder import DecoderState
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.taxonomy.tree import Taxonomy
from flows.cli.main import main

pytestmark = pytest.mark.usefixtures("untraced_onnx")

TAXONOMY = Taxonomy([*itertools.product(["Men", "Women"], ["Tops", "Jeans"], ["Long", "Short"]), ("Men", "Tops")])
SIZE = 32
Graph = Callable[..., list[np.ndarray]]  # inputs by name to outputs in order


def needs(extra: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(extras.missing_packages(extra)), reason=f"needs pip install atlas[{extra}]")


def make() -> Categorizer:
    torch.manual_seed(0)
    model = Categorizer(Architecture("small", 1, "native", 8, 6, 10, 0.5, normalize="children"), TAXONOMY).eval()
    decoder = model.decoder
    with torch.no_grad():  # weights large enough for outputs to depend on images and tokens
        for layer, factor in ((decoder.first_hidden, 30), (decoder.embedding, 8), (decoder.output, 8)):
            layer.weight.mul_(factor)
    model.temperature = 1.5
    return model


def run_onnx(folder: Path, name: str) -> Graph:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / _file(folder, name))
    return lambda **inputs: session.run(None, inputs)


def run_openvino(folder: Path, name: str) -> Graph:
    import openvino

    compiled = openvino.Core().compile_model(folder / _file(folder, name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda **inputs: list(compiled(inputs).values())


def _file(folder: Path, name: str) -> str:
    return json.loads((folder / "export.json").read_text())["graphs"][name]["file"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the model exported in a format by the command; each format is exported once."""
    root = tmp_path_factory.mktemp("export")
    save(make(), root / "model", Preprocessing(SIZE, "L", "pad"), params={}, metrics={})

    def folder(form: str) -> Path:
        path = root / form
        if not path.exists():
            assert main(["export", str(path), "--model", str(root / "model"), "--format", form]) == 0
        return path

    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "run"),
    [
        pytest.param("onnx", run_onnx, marks=needs("onnx")),
        pytest.param("openvino", run_openvino, marks=needs("openvino")),
    ],
)
@torch.no_grad()
def test_graphs_equal_torch(form: str, run: Callable[[Path, str], Graph], exported: Callable[[str], Path]) -> None:
    model, folder = make(), exported(form)
    look, start, step = (run(folder, name) for name in ("encoder", "decoder_start", "decoder_step"))
    for images, hypotheses in ((1, 1), (3, 1), (2, 5)):
        seen = torch.randint(0, 256, (images, 1, SIZE, SIZE), dtype=torch.uint8)
        cells = model.encoder(seen)
        memory, first = model.decoder.start(cells)
        state = DecoderState(first.hidden.repeat(1, hypotheses, 1), first.cell.repeat(1, hypotheses, 1))
        tokens = torch.randint(0, len(TAXONOMY.tokens), (images, hypotheses))
        after, attention = model.decoder.step(memory, state, tokens)
        _same(look(images=seen.numpy()), [cells])
        _same(start(cells=cells.numpy()), [memory.projected, first.hidden, first.cell])
        _same(
            step(
                cells=cells.numpy(),
                projected=memory.projected.numpy(),
                hidden=state.hidden.numpy(),
                cell=state.cell.numpy(),
                tokens=tokens.numpy(),
            ),
            [after.hidden, after.cell, model.decoder.logits(after.hidden), attention],
        )


def _same(found: list[np.ndarray], right: list[torch.Tensor]) -> None:
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-4)


@pytest.mark.slow
@needs("onnx")
@torch.no_grad()
def test_exports_resnet_pooled_to_14_cells(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(1)
    encoder = build_encoder("resnet18", in_channels=3, grid=14).eval()
    export_encoder(encoder, tmp_path / "encoder.onnx", pixels=(3, 64, 64))
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for count in (1, 3):
        seen = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8)
        _same(session.run(None, {"images": seen.numpy()}), [encoder(seen)])


@pytest.mark.slow
@needs("onnx")
def test_exported_files_suffice_for_greedy_search(exported: Callable[[str], Path]) -> None:
    """Greedy search, one image at a time, without code of atlas_model."""
    folder = exported("onnx")
    about = json.loads((folder / "export.json").read_text())
    assert about["preprocessing"] == {
        "size": SIZE,
        "mode": "L",
        "resize": "pad",
        "interpolation": "bicubic",
    }
    assert about["normalize"] == "children"
    look, start, step = (run_onnx(folder, name) for name in ("encoder", "decoder_start", "decoder_step"))
    children: dict[tuple[str, ...], set[str]] = {}
    for path in map(tuple, about["taxonomy"]["paths"]):
        for depth, name in enumerate(path):
            children.setdefault(path[:depth], set()).add(name)
    for path in map(tuple, about["taxonomy"]["paths"]):
        if path in children:
            children[path].add(about["tokens"][about["end"]])
    images = np.arange(0, 240, 12, dtype=np.uint8)[:, None, None, None].repeat(SIZE, 2).repeat(SIZE, 3)
    answers = []
    for image in images:
        (cells,) = look(images=image[None])
        projected, hidden, cell = start(cells=cells)
        begun: tuple[str, ...] = ()
        last, log_p = about["start"], 0.0
        while begun in children and last != about["end"]:
            token = np.array([[last]])
            hidden, cell, logits, _ = step(cells=cells, projected=projected, hidden=hidden, cell=cell, tokens=token)
            choices = sorted(about["tokens"].index(name) for name in children[begun])
            scores = logits[0, 0, choices] / about["temperature"]
            last = choices[int(scores.argmax())]
            log_p += float(scores.max() - np.log(np.exp(scores).sum()))
            begun = begun if last == about["end"] else (*begun, about["tokens"][last])
        answers.append((begun, log_p))
    found = make().search(torch.from_numpy(images), beam=1)
    assert len({path for path, _ in answers}) > 1  # predictions differ between images
    assert [path for path, _ in answers] == [TAXONOMY.paths[index] for index in found.path[:, 0]]
    np.testing.assert_allclose([log_p for _, log_p in answers], found.log_probability[:, 0], atol=1e-3)


@pytest.mark.slow
@needs("onnx")
def test_export_is_not_a_model(exported: Callable[[str], Path]) -> None:
    folder = exported("onnx")
    names = {"encoder.onnx", "decoder_start.onnx", "decoder_step.onnx", "export.json"}
    assert {file.name for file in folder.iterdir()} == names
    with pytest.raises(CheckpointError, match="expected a model's description"):
        load_categorizer(folder, torch.device("cpu"))


def test_command_refuses_invalid_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, mine = str(tmp_path / "categorizer"), tmp_path / "mine"
    save(make(), Path(saved), Preprocessing(SIZE, "L", "pad"), params={}, metrics={})
    mine.write_text("precious")
    for taken in (mine, tmp_path):
        assert main(["export", str(taken), "--model", saved]) == 2
        assert "expected a new or empty folder" in capsys.readouterr().err
    assert mine.read_text() == "precious"
    assert main(["export", str(tmp_path / ("x" * 300)), "--model", saved]) == 2
    assert "File name too long" in capsys.readouterr().err
    monkeypatch.setitem(extras.EXTRAS, "openvino", ("no_such_package",))
    assert main(["export", str(tmp_path / "out"), "--model", saved, "--format", "openvino"]) == 2
    assert "export to openvino: needs no_such_package" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs("onnx")
@torch.no_grad()
def test_path_head_is_a_separate_graph(tmp_path: Path) -> None:
    architecture = Architecture("small", 1, "native", 4, 4, 4, 0.0, normalize="children", path_head=True)
    torch.manual_seed(1)
    model = Categorizer(architecture, TAXONOMY).eval()
    save(model, tmp_path / "model", Preprocessing(SIZE, "L", "pad"), params={}, metrics={})
    assert main(["export", str(tmp_path / "out"), "--model", str(tmp_path / "model"), "--format", "onnx"]) == 0
    edges = json.loads((tmp_path / "out/export.json").read_text())["edges"]
    cells = model.encoder(torch.randint(0, 256, (3, 1, SIZE, SIZE), dtype=torch.uint8))
    (found,) = run_onnx(tmp_path / "out", "path_head")(cells=cells.numpy())
    np.testing.assert_allclose(found, model.path_head(cells).numpy(), rtol=0, atol=1e-4)
    assert len(edges["parent"]) == len(edges["token"]) == found.shape[1]
