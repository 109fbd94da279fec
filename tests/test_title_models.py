"""Models that read titles: image, title or both, held against the slow reference; trained, killed, saved and loaded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas_model import training
from atlas_model.activations import load_activations
from atlas_model.architecture import Architecture
from atlas_model.calibration import fit_temperature
from atlas_model.categorizer import Categorizer, load_categorizer, reads_titles, save
from atlas_model.dataset import Split
from atlas_model.errors import CheckpointError
from atlas_model.images import Preprocessing
from atlas_model.taxonomy import Taxonomy
from atlas_model.training import Recipe, fit
from atlas_model.validation import given_cells, path_accuracies
from tests.slow_search import all_scores, log_probabilities, written

CPU = torch.device("cpu")
TAXONOMY = Taxonomy([("Bags",), ("Men",), ("Men", "Tops"), ("Men", "Shoes", "Low"), ("Women", "Shoes", "Low")])
ARCHITECTURE = Architecture(
    "small", 1, "native", 16, 8, 16, 0.0, "children", deep_output=True, title="ngrams", title_buckets=256, title_size=8
)
PREPROCESSING = Preprocessing(16, "L", "squash")
TITLES = ["Blue tee", "", "🎒 bag", "T-shirt \0 \ud800", "x" * 1_000_000, "حقيبة"]
HALVES = Taxonomy([("Bright", "Left"), ("Bright", "Right"), ("Dark", "Left"), ("Dark", "Right")])
RECIPE = Recipe(
    encoder_lr=3e-3,
    decoder_lr=1e-2,
    weight_decay=0.01,
    warmup_share=0.1,
    clip_norm=5.0,
    batch_size=16,
    accumulate=1,
    epochs=3,
    patience=9,
    fine_tune_from="all",
    seed=1,
    precision="float32",
    shift=1,
    title_strip=0.5,
    title_drop=0.2,
)


def make(**changes: object) -> tuple[Categorizer, torch.Tensor]:
    torch.manual_seed(1)
    model = Categorizer(replace(ARCHITECTURE, **changes), TAXONOMY).eval()
    with torch.no_grad():
        model.titles.output.weight.mul_(20)
        model.titles.no_image.normal_()
    return model, torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)


def make_split(name: str, count: int, *, seed: int) -> Split:
    """Images show which half is brighter, and titles say how bright it is, some by the category's name."""
    generator = np.random.default_rng(seed)
    paths = generator.integers(0, 4, count)
    pixels = generator.integers(0, 60, (count, 1, 16, 16))
    for path, half in enumerate((slice(0, 8), slice(8, 16)) * 2):
        pixels[paths == path, :, :, half] += 120
    words = [["bright shiny", "shiny light"], ["dark gloomy", "gloomy night"]]
    titles = [f"item {number % 7} {words[path // 2][number % 2]}" for number, path in enumerate(paths.tolist())]
    names = [f"{name}-{row}" for row in range(count)]
    return Split(name, pixels.astype(np.uint8), paths, names, names, PREPROCESSING, titles)


def train(folder: Path, recipe: Recipe = RECIPE, on_epoch=lambda record: None, **more):
    torch.manual_seed(recipe.seed)
    model = Categorizer(ARCHITECTURE, HALVES, alpha_c=1.0)
    examples = [make_split("train", 96, seed=1), make_split("val", 48, seed=2)]
    if recipe.fine_tune_from != "all":
        model.encoder.freeze_before(recipe.fine_tune_from)
        examples = [load_activations(model.encoder, split, folder / "activations", device=CPU) for split in examples]
    state = folder / "state.safetensors"
    records = fit(model, *examples, recipe, device=CPU, state_file=state, job="test", on_epoch=on_epoch, **more)
    return model, records


@pytest.mark.parametrize("normalize", ["children", "vocabulary"])
@pytest.mark.parametrize("given", ["image", "title", "image_and_title"])
@torch.no_grad()
def test_searches_are_those_of_the_reference_whatever_is_given(normalize: str, given: str) -> None:
    model, images = make(normalize=normalize)
    cells = None if given == "title" else model.encoder(images)
    memory = model.given(cells, None if given == "image" else TITLES)
    beamed = model.search_cells(memory, beam=9, top=5, given=given)
    exactly, log_p = model.exact_cells(memory, top=5, given=given)
    assert torch.equal(beamed.path, exactly.path)
    torch.testing.assert_close(beamed.log_probability, exactly.log_probability)
    sequences = written(TAXONOMY)
    for row in range(6):
        scores = all_scores(model.decoder, memory[row], sequences, normalize)
        expected = [scores[tuple(sequences[path])] for path in exactly.path[row].tolist()]
        assert exactly.log_probability[row].tolist() == pytest.approx(expected, abs=1e-4)
        assert expected == sorted(expected, reverse=True)
    # The same alone, and in any company.
    alone = model.given(None if cells is None else cells[4:5], None if given == "image" else TITLES[4:5])
    torch.testing.assert_close(model.exact_cells(alone, given=given)[1][0], log_p[4], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_titles_matter_and_an_absent_one_is_as_an_empty_one() -> None:
    model, images = make()
    cells = model.encoder(images)
    assert torch.equal(cells, model.given(cells, ["", " ", "-", "\0", "\ud800", "()"]))
    assert torch.equal(model.search(images, beam=3).log_probability, model.search_cells(cells, beam=3).log_probability)
    _, with_titles = model.exact_cells(model.given(cells, TITLES))
    _, without = model.exact(images)
    changed = (with_titles - without).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [True, False, True, True, True, True], "the second has no title"
    _, alone = model.exact_cells(model.given(None, TITLES))
    assert not torch.allclose(alone[0], alone[2])


def test_a_model_without_titles_takes_none() -> None:
    model = Categorizer(replace(ARCHITECTURE, title="none"), TAXONOMY)
    assert not reads_titles(model)
    cells = torch.zeros(1, 16, 128)
    assert model.given(cells, None) is cells
    with pytest.raises(AssertionError, match="reads no titles"):
        model.given(cells, ["Blue tee"])


@pytest.mark.parametrize("normalize", ["children", "vocabulary"])
def test_the_loss_is_that_of_the_image_of_both_and_of_the_title(normalize: str) -> None:
    model, images = make(normalize=normalize)
    paths = torch.arange(6) % len(TAXONOMY)
    cells = model.encoder(images).detach()
    sequences, expected = written(TAXONOMY), 0.0
    if normalize == "vocabulary":  # it writes END after leaves, too
        sequences = [model.targets[path, : len(names) + 1].tolist() for path, names in enumerate(TAXONOMY.paths)]
    for memory in (cells, model.given(cells, TITLES), model.given(None, TITLES)):
        terms = []
        for row, path in enumerate(paths.tolist()):
            for step, token in enumerate(sequences[path]):
                allowed = sorted(
                    {each[step] for each in sequences if each[:step] == sequences[path][:step] and each[step:]}
                )
                prefix = sequences[path][:step]
                found = log_probabilities(model.decoder, memory[row].detach(), prefix, allowed, normalize)
                if normalize == "vocabulary" or len(allowed) > 1:
                    terms.append(-found[token])
        expected += sum(terms) / len(terms)
    assert model.loss_of_cells(cells, paths, paths, TITLES).item() == pytest.approx(expected, rel=1e-4)
    halves = [slice(0, 3), slice(3, 6)]
    parts = sum(model.loss_of_cells(cells[half], paths[half], paths, TITLES[half]) for half in halves)
    assert parts.item() == pytest.approx(expected, rel=1e-4), "the losses of parts add up"


def test_all_parts_learn_from_the_loss_and_the_attention_term_is_about_images() -> None:
    model, images = make()
    paths = torch.arange(6) % len(TAXONOMY)
    model.loss_of_cells(model.encoder(images), paths, paths, TITLES).backward()
    learning = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    still = {name for name, _ in model.named_parameters()} - learning
    assert still <= {"decoder.score.bias"}, "the same in all cells"
    cells = model.encoder(images).detach()
    plain = model.loss_of_cells(cells, paths, paths, TITLES)
    model.alpha_c = 1e3
    term = (model.loss_of_cells(cells, paths, paths, TITLES) - plain).item()
    expected = 0.0
    for titles in (None, TITLES):
        memory = model.given(cells, titles)
        for row, path in enumerate(paths.tolist()):
            tokens = torch.cat([torch.tensor([1]), model.targets[path]])[: len(written(TAXONOMY)[path])]
            _, attention = model.decoder(memory[row, None], tokens[None])
            total = attention[0].sum(dim=0).detach()
            expected += 1e3 * float((total.mean() - total).square().mean()) / 6
    assert term == pytest.approx(expected, rel=1e-3)


def test_it_learns_what_only_titles_say_and_what_only_images_show(tmp_path: Path) -> None:
    model, records = train(tmp_path, replace(RECIPE, epochs=12))
    val = make_split("val", 48, seed=2)
    image, _, both, _ = path_accuracies(model, val, 16, CPU)
    assert both >= 0.9
    assert 0.3 <= image <= 0.75, "an image shows the second level alone"
    best = max(records, key=lambda record: record.val_accuracy + record.val_accuracy_with_title)
    assert (best.val_accuracy, best.val_accuracy_with_title) == (image, both), "both choose the epoch"
    cells = given_cells(model, val, np.arange(48), given="title", batch_size=16, device=CPU)
    first = torch.cat([model.best_path_of_cells(each) for each in cells]) // 2
    assert (first.numpy() == val.paths // 2).mean() >= 0.9, "a title says the first"


class Killed(BaseException):
    """Stands for a kill between two epochs."""


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("block", ["all", "2"])
def test_a_killed_run_resumes_and_ends_as_if_never_killed(block: str, tmp_path: Path) -> None:
    recipe = replace(RECIPE, fine_tune_from=block, shift=1 if block == "all" else 0, ema=0.9)
    whole, whole_records = train(tmp_path / "whole", recipe)

    def die(record: training.EpochRecord) -> None:
        if record.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "killed", recipe, on_epoch=die)
    resumed, records = train(tmp_path / "killed", recipe)
    assert [record.train_loss for record in records] == [record.train_loss for record in whole_records]
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name


@pytest.mark.usefixtures("two_threads")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_titles(tmp_path: Path) -> None:
    for run, seed in (("one", 1), ("two", 1), ("three", 2)):
        model, _ = train(tmp_path / run, replace(RECIPE, epochs=2, seed=seed))
        save(model, tmp_path / run / "model", PREPROCESSING, params={}, metrics={})
    one, two, three = ((tmp_path / run / "model/model.safetensors").read_bytes() for run in ("one", "two", "three"))
    assert one == two != three


def test_titles_of_an_epoch_depend_on_seed_and_epoch_alone() -> None:
    model, split = Categorizer(ARCHITECTURE, HALVES), make_split("train", 40, seed=1)
    batches = [np.arange(0, 20), np.arange(20, 40)]
    one, again, other = (list(training._titles(model, split, batches, RECIPE, seed)) for seed in (5, 5, 6))
    assert one == again != other
    assert any("bright" in title for title in one[0])
    assert not any("item" not in title.split() for title in split.titles)
    assert any("item" not in title.split() for title in one[0]), "words are left out"
    unread = Categorizer(replace(ARCHITECTURE, title="none"), HALVES)
    assert list(training._titles(unread, split, batches, RECIPE, 5)) == [None, None]


def test_each_of_what_may_be_given_has_a_temperature_of_its_own(tmp_path: Path) -> None:
    model, images = make()
    model.temperature, model.title_temperatures = 1.5, {"title": 0.5, "image_and_title": 2.5}
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    loaded, _ = load_categorizer(tmp_path / "model", CPU)
    assert loaded.architecture == ARCHITECTURE
    assert [loaded.temperature_of(given) for given in ("image", "title", "image_and_title")] == [1.5, 0.5, 2.5]
    with torch.no_grad():
        memory = loaded.given(loaded.encoder(images), TITLES)
        for given in ("image", "title", "image_and_title"):
            found = loaded.search_cells(memory, beam=5, given=given).log_probability
            model.temperature = loaded.temperature_of(given)
            torch.testing.assert_close(found, model.search_cells(memory, beam=5).log_probability)
    assert fit_temperature(loaded, [memory], np.zeros(6, dtype=np.int64)) > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", "words"),
        ("title_buckets", 2**30),
        ("title_buckets", 0),
        ("title_size", 2**20),
        ("title_size", "8"),
    ],
)
def test_a_description_that_is_none_is_refused(key: str, value: object, tmp_path: Path) -> None:
    model, _ = make()
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    description = tmp_path / "model/model.json"
    content = json.loads(description.read_text())
    content["architecture"][key] = value
    description.write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        load_categorizer(tmp_path / "model", CPU)


@pytest.mark.parametrize(
    "temperatures", [None, {}, {"title": 1.0, "image_and_title": -1.0}, {"title": 1.0}, [1.0, 1.0]]
)
def test_temperatures_that_are_none_are_refused(temperatures: object, tmp_path: Path) -> None:
    model, _ = make()
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    description = tmp_path / "model/model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"title_temperatures": temperatures}))
    with pytest.raises(CheckpointError):
        load_categorizer(tmp_path / "model", CPU)


def test_a_model_from_before_titles_still_loads(tmp_path: Path) -> None:
    model = Categorizer(replace(ARCHITECTURE, title="none", title_buckets=0, title_size=0), TAXONOMY).eval()
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    description = tmp_path / "model/model.json"
    content = json.loads(description.read_text())
    assert "title_temperatures" not in content
    for key in ("title", "title_buckets", "title_size"):
        del content["architecture"][key]
    description.write_text(json.dumps(content))
    loaded, _ = load_categorizer(tmp_path / "model", CPU)
    assert loaded.architecture == model.architecture
    assert not reads_titles(loaded)
