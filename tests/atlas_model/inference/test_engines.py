"""Inference engines: each gives the same cells as the trained encoder."""

import itertools
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from atlas_model.core import extras
from atlas_model.core.checksums import write_checksum
from atlas_model.core.encoder_names import EncoderName
from atlas_model.core.errors import InputError
from atlas_model.encoders import encoder as encoder_module
from atlas_model.encoders.encoder import Encoder, build_encoder, fold_batch_norms
from atlas_model.inference import engines, export, quantization
from atlas_model.inference.engines import EngineName, accelerate
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("untraced_onnx")

TAXONOMY = Taxonomy(itertools.product(["Men", "Women"], ["Tops", "Jeans"], ["Long", "Short"]))
ARCHITECTURE = Architecture("small", 1, "native", 8, 8, 8, 0.0)
PIXELS = (1, 28, 28)
INSTALLED = [
    pytest.param(
        engine,
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(bool(extras.missing_packages(extra)), reason=f"needs pip install atlas[{extra}]"),
        ],
    )
    for engine, extra in ((engine, engines.EXTRA_OF[engine]) for engine in engines.EXACT)
]


def trained(encoder: Encoder) -> Encoder:
    """An encoder with non-trivial batch norms, as after training."""
    torch.manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return encoder.eval()


def categorizer() -> Categorizer:
    torch.manual_seed(1)
    model = Categorizer(ARCHITECTURE, TAXONOMY).eval()
    trained(model.encoder)
    return model


def images(count: int, channels: int = 1, size: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all tests, so that the encoder is exported once."""
    return tmp_path_factory.mktemp("engines")


@pytest.mark.parametrize("name", get_args(EncoderName))
def test_folding_removes_batch_norms_and_keeps_cells(name: EncoderName) -> None:
    encoder = trained(build_encoder(name, in_channels=3, grid="native"))
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    faster = fold_batch_norms(encoder)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in faster.modules())
    seen = images(2, channels=3, size=32)
    with torch.no_grad():
        right = encoder(seen)
        torch.testing.assert_close(faster(seen), right, rtol=0, atol=1e-5 * float(right.abs().max()))
    assert all(
        tensor.equal(before[key]) for key, tensor in encoder.state_dict().items()
    )  # the trained encoder is unchanged


def test_torch_engine_gives_the_same_predictions() -> None:
    seen, model = images(5), categorizer()
    before = model.search(seen, beam=3, top=3)
    assert accelerate(model, "torch", pixels=PIXELS, cache=None) == "torch"
    after = model.search(seen, beam=3, top=3)
    assert after.path.equal(before.path)
    torch.testing.assert_close(after.log_probability, before.log_probability, rtol=0, atol=1e-5)
    assert not model.encoder(seen).requires_grad
    assert model.encoder.channels == 128


def test_baseline_is_accelerated_too() -> None:
    model = Classifier(ARCHITECTURE, TAXONOMY).eval()
    trained(model.encoder)
    with torch.no_grad():
        before = model(images(3))
        accelerate(model, "torch", pixels=PIXELS, cache=None)
        torch.testing.assert_close(model(images(3)), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("count", [1, 3])
def test_all_engines_give_the_same_cells(engine: EngineName, count: int, cache: Path) -> None:
    model = categorizer()
    with torch.no_grad():
        right = model.encoder(images(count))
    assert accelerate(model, engine, pixels=PIXELS, cache=cache) == engine
    torch.testing.assert_close(model.encoder(images(count)), right, rtol=0, atol=1e-4)
    assert len(list(cache.glob("*.onnx"))) == 1  # the engines share one exported encoder
    assert model.search(images(count), beam=3).path.equal(categorizer().search(images(count), beam=3).path)


@pytest.mark.slow
@pytest.mark.skipif(bool(extras.missing_packages("onnx")), reason="needs pip install atlas[onnx]")
def test_int8_cells_are_close_after_calibration(cache: Path) -> None:
    model, again, seen = categorizer(), categorizer(), images(engines.CALIBRATION + 1)
    with torch.no_grad():
        right = model.encoder(seen)
    assert accelerate(model, "onnxruntime-int8", pixels=PIXELS, cache=cache) == "onnxruntime-int8"
    with pytest.raises(InputError, match=r"expected at least 32 images in the first batch.*got 31"):
        model.encoder(seen[:31])
    found = model.encoder(seen)
    assert 0 < float((found - right).norm() / right.norm()) < 0.05
    torch.testing.assert_close(model.encoder(seen[:1]), found[:1])
    accelerate(again, "onnxruntime-int8", pixels=PIXELS, cache=cache)
    torch.testing.assert_close(again.encoder(seen[:1]), found[:1])  # another process reuses the calibration


@pytest.mark.parametrize("engine", INSTALLED)
def test_auto_selects_the_fastest_engine_and_caches_it(
    engine: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "FEW_PARAMETERS", 0)
    for old in cache.glob("*.json"):
        old.unlink()
    chosen = accelerate(categorizer(), "auto", pixels=PIXELS, cache=cache)
    (file,) = cache.glob("*.json")
    milliseconds = json.loads(file.read_text())
    assert milliseconds[chosen] == min(milliseconds.values())
    file.write_text(json.dumps({**dict.fromkeys(milliseconds, 2.0), engine: 1.0}))
    write_checksum(file)
    assert accelerate(categorizer(), "auto", pixels=PIXELS, cache=cache) == engine
    monkeypatch.setattr(engines, "_cpu", lambda: "another processor")
    accelerate(categorizer(), "auto", pixels=PIXELS, cache=cache)
    assert len(list(cache.glob("*.json"))) == 2


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"torch": "fast", "onnxruntime": 1, "openvino": 1}'])
@pytest.mark.parametrize("engine", INSTALLED[:1])
def test_unreadable_measurement_is_repeated(
    engine: str, content: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "FEW_PARAMETERS", 0)
    monkeypatch.setattr(engines, "_milliseconds", lambda runners, _: {**dict.fromkeys(runners, 2.0), engine: 1.0})
    for old in cache.glob("*.json"):
        old.unlink()
    accelerate(categorizer(), "auto", pixels=PIXELS, cache=cache)
    (file,) = cache.glob("*.json")
    file.write_text(content)
    assert accelerate(categorizer(), "auto", pixels=PIXELS, cache=cache) == engine
    assert f"{file}: damaged" in capsys.readouterr().err
    assert json.loads(file.read_text())[engine] == 1.0


@pytest.mark.parametrize("engine", [*INSTALLED, pytest.param("onnxruntime-int8", marks=INSTALLED[0].marks)])
def test_unreadable_graph_is_exported_again(
    engine: EngineName, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, seen = [], images(engines.CALIBRATION)
    accelerate(categorizer(), "onnxruntime", pixels=PIXELS, cache=cache)
    (exported,) = cache.glob("*.onnx")
    # A copy is faster than an export.
    monkeypatch.setattr(engines._TrainedEncoder, "_export", lambda _, file: shutil.copy(exported, file))
    for _ in range(3):
        model = categorizer()
        accelerate(model, engine, pixels=PIXELS, cache=tmp_path)
        found.append(model.encoder(seen))
        for file in tmp_path.iterdir():
            file.write_bytes(file.read_bytes()[:1000])
    assert found[1].equal(found[0]) and found[2].equal(found[0])


@torch.no_grad()
@pytest.mark.skipif(bool(extras.missing_packages("onnx")), reason="needs pip install atlas[onnx]")
def test_int8_graph_is_not_reused_by_other_code_or_version(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = engines._TrainedEncoder(categorizer().encoder, PIXELS, Path())
    names = {trained.int8_file}
    monkeypatch.setattr(engines, "version", lambda package: "0")
    names.add(trained.int8_file)
    monkeypatch.setattr(quantization, "__file__", __file__)
    names.add(trained.int8_file)
    monkeypatch.setattr(engines, "CALIBRATION", 32)
    names.add(trained.int8_file)
    assert len(names) == 4


def test_small_encoder_runs_in_torch_without_measurement(tmp_path: Path) -> None:
    assert accelerate(categorizer(), "auto", pixels=PIXELS, cache=tmp_path) == "torch"
    assert not list(tmp_path.iterdir())


def test_missing_extra_is_named_and_skipped_by_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "FEW_PARAMETERS", 0)
    for engine, extra in engines.EXTRA_OF.items():
        monkeypatch.setitem(extras.EXTRAS, extra, ("no_such_package",))
        with pytest.raises(InputError, match=rf"engine {engine}: needs no_such_package.*pip install atlas\[{extra}\]"):
            accelerate(categorizer(), engine, pixels=PIXELS, cache=tmp_path)
    assert accelerate(categorizer(), "auto", pixels=PIXELS, cache=tmp_path) == "torch"


def test_extras_are_declared_in_pyproject() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in extras.EXTRAS.items():
        names = [re.split("[<>=]", line)[0].replace("-", "_") for line in declared[extra]]
        assert sorted(names) == sorted(packages)


@pytest.mark.parametrize("engine", INSTALLED)
def test_reports_read_only_cache(engine: EngineName, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file: expected a folder to keep exported graphs in"):
        accelerate(categorizer(), engine, pixels=PIXELS, cache=tmp_path / "file")


@torch.no_grad()
def test_graph_is_not_reused_by_other_weights_sizes_or_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(encoder: Encoder, pixels: tuple[int, int, int] = PIXELS) -> str:
        return engines._TrainedEncoder(encoder, pixels, tmp_path).key

    encoder = categorizer().encoder
    keys = [key(encoder), key(encoder, (1, 32, 32)), key(trained(build_encoder("small", in_channels=1, grid=7)))]
    assert key(categorizer().encoder) == keys[0]
    encoder.mean += 0.001
    keys.append(key(encoder))
    encoder.trunk[1][0].weight[0, 0, 0, 0] += 0.001
    keys.append(key(encoder))
    for module in (encoder_module, export):
        monkeypatch.setattr(module, "__file__", __file__)
        keys.append(key(encoder))
    assert len(set(keys)) == len(keys)


def test_gpu_supports_only_the_torch_engine(tmp_path: Path) -> None:
    model = categorizer().to("meta")  # any device that is not the CPU
    with pytest.raises(InputError, match=r"engine openvino: (runs on the CPU|needs )"):
        accelerate(model, "openvino", pixels=PIXELS, cache=tmp_path)


def test_gpu_encoder_runs_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on the CPU and without compilation here."""
    monkeypatch.setattr(torch, "compile", lambda module: module)
    encoder = categorizer().encoder
    with torch.no_grad():
        right, found = encoder(images(2)), engines._OnGpu(encoder)(images(2))
    assert found.dtype == torch.float32
    assert not found.equal(right)
    torch.testing.assert_close(found, right, rtol=0, atol=0.03 * float(right.abs().max()))
