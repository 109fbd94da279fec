"""From a model folder and a decoded picture to paths and a picture of where the model looked."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atlas_model.attention import overlay
from atlas_model.categorizer import Architecture, Categorizer, save
from atlas_model.device import choose_device
from atlas_model.errors import CheckpointError, InputError
from atlas_model.images import Preprocessing
from atlas_model.predict import BATCH, Predictor
from atlas_model.taxonomy import Taxonomy

TAXONOMY = Taxonomy([*itertools.product(["Men", "Women"], ["Tops", "Jeans"], ["Long", "Short"]), ("Bags",)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    architecture = Architecture("small", 3, "native", 8, 8, 8, 0.0)
    path = tmp_path_factory.mktemp("model") / "categorizer"
    save(Categorizer(architecture, TAXONOMY), path, Preprocessing(28, "RGB", "pad"), params={}, metrics={})
    return path


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(1)
    return [Image.fromarray(generator.integers(0, 256, (40, 30 + row % 5, 3), dtype=np.uint8)) for row in range(count)]


def test_top_paths_are_valid_distinct_and_in_order(folder: Path) -> None:
    answers = Predictor.load(folder, "cpu").predict(pictures(3), beam=5, top=4)
    assert len(answers) == 3
    for answer in answers:
        assert len({prediction.path for prediction in answer}) == 4
        assert all(prediction.path in TAXONOMY for prediction in answer)
        probabilities = [prediction.probability for prediction in answer]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1


def test_more_paths_than_the_taxonomy_has_are_all_of_them(folder: Path) -> None:
    (answer,) = Predictor.load(folder, "cpu").predict(pictures(1), beam=2, top=50)
    assert {prediction.path for prediction in answer} == set(TAXONOMY.paths)


def test_batches_do_not_change_answers(folder: Path) -> None:
    predictor = Predictor.load(folder, "cpu")
    many = pictures(BATCH + 3)
    together = predictor.predict(many)
    alone = [predictor.predict([picture])[0] for picture in (many[0], many[-1])]
    for one, other in zip(alone, (together[0], together[-1]), strict=True):
        assert one[0].path == other[0].path
        assert one[0].probability == pytest.approx(other[0].probability, rel=1e-4)
    assert predictor.predict([]) == []


def test_a_pickle_given_as_model_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"state": 1}, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text('{"format": 1, "kind": "categorizer"}')
    with pytest.raises(CheckpointError, match="safetensors"):
        Predictor.load(tmp_path)


def test_no_model_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a model's description"):
        Predictor.load(tmp_path / "nothing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_says_so() -> None:
    with pytest.raises(InputError, match="torch sees no GPU"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_the_overlay_lights_up_where_the_attention_is(folder: Path) -> None:
    strip = Predictor.load(folder, "cpu").attention_overlay(pictures(1)[0])
    assert strip.width > strip.height
    attention = np.zeros((1, 4))
    attention[0, 1] = 1.0  # top right
    lit = np.asarray(overlay(Image.new("L", (28, 28)), ["$x_$ <b>"], attention, title="$a$")).astype(int)
    panel = lit[:, lit.shape[1] // 2 :]
    bright = np.argwhere((panel[..., 0] > 90) & (panel[..., 0] < 200))  # the heat, neither background nor black
    centre = bright.mean(axis=0) / panel.shape[:2]
    assert centre[0] < 0.55 and centre[1] > 0.5
