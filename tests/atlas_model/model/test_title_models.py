"""Models that read titles: image, title or both, held against the slow reference; trained, killed, saved and loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atlas_model.confidence.calibration import fit_title_weights
from atlas_model.core.errors import CheckpointError
from atlas_model.data.dataset import Split
from atlas_model.data.images import Preprocessing
from atlas_model.data.titles import LabelWords, split_words
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer, reads_titles
from atlas_model.model.evidence import LogitWeights, TitleWeights
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.taxonomy.tree import END, START, Taxonomy
from atlas_model.train import loop
from atlas_model.train.feature_cache import load_activations
from atlas_model.train.loop import Recipe, fit
from atlas_model.train.validation import Examples, evidence_batches, path_accuracies
from tests.support.slow_search import log_probabilities, written

CPU = torch.device("cpu")
TAXONOMY = Taxonomy([("Bags",), ("Men",), ("Men", "Tops"), ("Men", "Shoes", "Low"), ("Women", "Shoes", "Low")])
ARCHITECTURE = Architecture(
    "small", 1, "native", 16, 8, 16, 0.0, "children", deep_output=True, title="ngrams", title_buckets=256, title_size=8
)
PREPROCESSING = Preprocessing(16, "L", "squash")
TITLES = ["Blue tee", "", "🎒 bag", "T-shirt \0 \ud800", "x" * 1_000_000, "حقيبة"]
WEIGHTS = TitleWeights(LogitWeights(0.5, 1.5, 2.0), LogitWeights(0.8, 0.6, 0.7))
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


def make(**changes: Any) -> tuple[Categorizer, torch.Tensor]:
    torch.manual_seed(1)
    model = Categorizer(replace(ARCHITECTURE, **changes), TAXONOMY).eval()
    with torch.no_grad():
        model.title_head.output.weight.mul_(5)
        model.title_weights = WEIGHTS
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
    splits = [make_split("train", 96, seed=1), make_split("val", 48, seed=2)]
    examples: list[Examples] = [*splits]
    if recipe.fine_tune_from != "all":
        model.encoder.freeze_before(recipe.fine_tune_from)
        examples = [load_activations(model.encoder, split, folder / "activations", device=CPU) for split in splits]
    state = folder / "state.safetensors"
    records = fit(
        model, examples[0], examples[1], recipe, device=CPU, state_file=state, job="test", on_epoch=on_epoch, **more
    )
    return model, records


def expected_log_p(model: Categorizer, cells: torch.Tensor | None, titles: list[str] | None, row: int) -> torch.Tensor:
    """Log p of each path, from the definition: each step's logits, weighed, added up, normalised over children."""
    taxonomy = model.taxonomy
    weights = LogitWeights(image=1 / model.temperature)
    if titles is not None and split_words(titles[row]):
        words = LabelWords(taxonomy.names)
        weights = WEIGHTS.named if words.occur_in(titles[row]) else WEIGHTS.other
    of_title = torch.zeros(len(taxonomy))
    if titles is not None:
        of_title = model.title_head(titles)[row] * (weights.alone if cells is None else weights.title)
    log_p = []
    for path in taxonomy.paths:
        total = torch.zeros(())
        for step in range(len(path) + 1):
            below = [each for each in taxonomy.paths if each[:step] == path[:step]]
            names = sorted({each[step] if len(each) > step else "" for each in below})
            if names == [""]:
                break
            branches = [[each for each in below if [*each, *[""] * 9][step] == name] for name in names]
            rows = [[taxonomy.paths.index(each) for each in branch] for branch in branches]
            logits = torch.stack([of_title[paths].logsumexp(0) for paths in rows])
            if cells is not None:
                before = [START, *(taxonomy.tokens.index(name) for name in path[:step])]
                readout, _ = model.decoder(cells[row, None], torch.tensor([before]))
                tokens = [taxonomy.tokens.index(name) if name else END for name in names]
                of_image = model.decoder.logits(readout)[0, -1, tokens]
                if model.path_head is not None:
                    scores = model.path_head.scores(cells[row, None])[0]
                    of_image = of_image + torch.stack([scores[paths].logsumexp(0) for paths in rows])
                said = titles is not None and bool(split_words(titles[row]))
                logits = weights.image * of_image + (logits if said else 0)
            name = path[step] if len(path) > step else ""
            total = total + logits.log_softmax(0)[names.index(name)]
        log_p.append(total)
    return torch.stack(log_p)


@pytest.mark.parametrize("path_head", [False, True])
@pytest.mark.parametrize("given", ["image", "title", "image_and_title"])
@torch.no_grad()
def test_searches_are_those_of_the_definition_whatever_is_given(path_head: bool, given: str) -> None:
    model, images = make(path_head=path_head)
    model.temperature = 1.3
    cells = None if given == "title" else model.encoder(images)
    titles = None if given == "image" else TITLES
    evidence_batches = model.evidence(cells, titles)
    beamed = model.search_cells(evidence_batches, beam=9, top=5)
    exactly, log_p = model.exact_cells(evidence_batches, top=5)
    assert torch.equal(beamed.path, exactly.path)
    torch.testing.assert_close(beamed.log_probability, exactly.log_probability)
    for row in range(6):
        expected = expected_log_p(model, cells, titles, row)
        torch.testing.assert_close(exactly.log_probability[row], expected[exactly.path[row]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(exactly.log_probability.exp().sum(dim=1), torch.ones(6))
    # The same alone, and in any company.
    alone = model.evidence(None if cells is None else cells[4:5], None if titles is None else titles[4:5])
    torch.testing.assert_close(model.exact_cells(alone)[1][0], log_p[4], atol=1e-5, rtol=1e-4)
    some = evidence_batches.at(torch.tensor([False, False, True, False, True, False]))
    torch.testing.assert_close(model.exact_cells(some)[1], log_p[[2, 4]], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_titles_matter_and_an_absent_one_is_as_an_empty_one() -> None:
    model, images = make()
    model.temperature = 1.3
    cells = model.encoder(images)
    _, without = model.exact(images)
    _, wordless = model.exact_cells(model.evidence(cells, ["", " ", "-", "\0", "\ud800", "()"]))
    torch.testing.assert_close(wordless, without)
    _, with_titles = model.exact_cells(model.evidence(cells, TITLES))
    changed = (with_titles - without).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [True, False, True, True, True, True], "the second has no title"
    _, alone = model.exact_cells(model.evidence(None, TITLES))
    assert not torch.allclose(alone[0], alone[2])


@torch.no_grad()
def test_uncalibrated_all_logits_count_as_they_are() -> None:
    model, images = make(path_head=True)
    model.temperature = 1.3
    cells = model.encoder(images)
    found = [model.exact_cells(model.evidence(cells, titles, calibrated=False))[1] for titles in (None, TITLES)]
    model.temperature, model.title_weights = 1.0, TitleWeights()
    expected = [model.exact_cells(model.evidence(cells, titles))[1] for titles in (None, TITLES)]
    assert all(map(torch.equal, found, expected))


@torch.no_grad()
def test_a_word_of_a_label_is_looked_up_apart() -> None:
    head = make()[0].title_head
    assert head.words.occur_in("a men thing")
    assert not head.words.occur_in("a blue thing")
    named, other = (head._ids(title) for title in ("men blue", "blue"))
    assert not {*named.tolist()} & {*other.tolist()}
    assert {*other.tolist()} <= {(number + 128) % 256 for number in named.tolist()}


def test_a_model_without_titles_takes_none() -> None:
    model = Categorizer(replace(ARCHITECTURE, title="none"), TAXONOMY)
    assert not reads_titles(model)
    with pytest.raises(AssertionError, match="reads no titles"):
        model.evidence(torch.zeros(1, 16, 128), ["Blue tee"])


def test_the_loss_is_that_of_each_part_by_itself() -> None:
    model, images = make(path_head=True)
    paths = torch.arange(6) % len(TAXONOMY)
    cells = model.encoder(images).detach()
    sequences, terms = written(TAXONOMY), []
    for row, path in enumerate(paths.tolist()):
        for step, token in enumerate(sequences[path]):
            prefix = sequences[path][:step]
            allowed = sorted({each[step] for each in sequences if each[:step] == prefix and each[step:]})
            found = log_probabilities(model.decoder, cells[row], prefix, allowed, "children")
            if len(allowed) > 1:
                terms.append(-found[token])
    expected = sum(terms) / len(terms)
    for scores in (model.path_head.scores(cells), model.title_head(TITLES)):
        expected += torch.nn.functional.cross_entropy(scores, paths).item()
    assert model.loss_of_cells(cells, paths, paths, TITLES).item() == pytest.approx(expected, rel=1e-4)
    halves = [slice(0, 3), slice(3, 6)]
    parts = sum(model.loss_of_cells(cells[half], paths[half], paths, TITLES[half]) for half in halves)
    assert parts.item() == pytest.approx(expected, rel=1e-4), "the losses of parts add up"


def test_the_prior_of_each_path_is_in_the_loss_of_each_part() -> None:
    priors = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    torch.manual_seed(1)
    model = Categorizer(replace(ARCHITECTURE, path_head=True), TAXONOMY, priors=priors).eval()
    paths = torch.arange(6) % len(TAXONOMY)
    cells = model.encoder(torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)).detach()
    found = model.loss_of_cells(cells, paths, paths, TITLES) - model._decoder_loss(cells, paths, paths)
    expected = sum(
        torch.nn.functional.cross_entropy(scores + torch.from_numpy(priors).log().float(), paths)
        for scores in (model.path_head.scores(cells), model.title_head(TITLES))
    )
    torch.testing.assert_close(found, expected)


def test_all_parts_learn_from_the_loss() -> None:
    model, images = make(path_head=True)
    paths = torch.arange(6) % len(TAXONOMY)
    model.loss_of_cells(model.encoder(images), paths, paths, TITLES).backward()
    learning = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    still = {name for name, _ in model.named_parameters()} - learning
    assert still <= {"decoder.score.bias"}, "the same in all cells"


def test_it_learns_what_only_titles_say_and_what_only_images_show(tmp_path: Path) -> None:
    model, records = train(tmp_path, replace(RECIPE, epochs=12))
    val = make_split("val", 48, seed=2)
    image, _, title, _ = path_accuracies(model, val, 16, CPU)
    assert 0.3 <= image <= 0.75, "an image shows the second level alone"
    assert 0.3 <= title <= 0.75, "a title says the first level alone"
    best = max(records, key=lambda record: record.val_accuracy + record.val_accuracy_of_title)
    assert (best.val_accuracy, best.val_accuracy_of_title) == (image, title), "both choose the epoch"
    levels = {}
    for given in ("title", "image_and_title"):
        seen = evidence_batches(model, val, np.arange(48), modality=given, batch_size=16, device=CPU)
        levels[given] = torch.cat([model.best_path_of_cells(each) for each in seen]).numpy()
    assert (levels["title"] // 2 == val.paths // 2).mean() >= 0.9
    assert (levels["image_and_title"] == val.paths).mean() >= 0.9


class Killed(BaseException):
    """Stands for a kill between two epochs."""


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("block", ["all", "2"])
def test_a_killed_run_resumes_and_ends_as_if_never_killed(block: str, tmp_path: Path) -> None:
    recipe = replace(RECIPE, fine_tune_from=block, shift=1 if block == "all" else 0, ema=0.9)
    whole, whole_records = train(tmp_path / "whole", recipe)

    def die(record: loop.EpochRecord) -> None:
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
    one, again, other = (list(loop._titles(model, split, batches, RECIPE, seed)) for seed in (5, 5, 6))
    assert one == again != other
    assert any("bright" in title for title in one[0])
    assert not any("item" not in title.split() for title in split.titles)
    assert any("item" not in title.split() for title in one[0]), "words are left out"
    unread = Categorizer(replace(ARCHITECTURE, title="none"), HALVES)
    assert list(loop._titles(unread, split, batches, RECIPE, 5)) == [None, None]


def test_weights_are_saved_with_the_model(tmp_path: Path) -> None:
    model, images = make()
    model.temperature = 1.5
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    loaded, _ = load_categorizer(tmp_path / "model", CPU)
    assert (loaded.architecture, loaded.temperature, loaded.title_weights) == (ARCHITECTURE, 1.5, WEIGHTS)
    with torch.no_grad():
        one, other = (each.exact_cells(each.evidence(each.encoder(images), TITLES))[1] for each in (model, loaded))
    assert torch.equal(one, other)


@torch.no_grad()
def test_fitted_weights_make_the_right_paths_most_probable() -> None:
    model, _ = make(path_head=True)
    generator = torch.Generator().manual_seed(3)
    count = 300
    images = torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)
    cells = model.encoder(images)
    titles = [f"{('Men', 'thing')[number % 2]} number{number}" for number in range(count)]
    model.title_weights = TitleWeights(LogitWeights(0.6, 1.8, 2.0), LogitWeights(1.5, 0.4, 0.5))
    drawn = {}
    for name, given in (("both", cells), ("alone", None)):
        exactly, _ = model.exact_cells(model.evidence(given, titles), top=5)
        choice = torch.multinomial(exactly.log_probability.exp(), 1, generator=generator)
        drawn[name] = exactly.path.gather(1, choice).squeeze(1).numpy()
    found = fit_title_weights(model, cells.split(100), titles, drawn["both"])
    wanted = {"named": [(row, titles[row]) for row in range(0, count, 2)]}
    wanted["other"] = [(row, model.title_head.words.remove_from(title)) for row, title in enumerate(titles)]
    for kind, rows in wanted.items():
        weights = getattr(found, kind)

        def loss(changed: LogitWeights, rows: list[tuple[int, str]] = rows) -> float:
            model.title_weights = TitleWeights(changed, changed)
            indices, said = zip(*rows, strict=True)
            exactly, _ = model.exact_cells(model.evidence(cells[list(indices)], list(said)), top=5)
            right = torch.from_numpy(drawn["both"][list(indices)]).unsqueeze(1)
            return -float(exactly.log_probability[exactly.path == right].sum())

        best = loss(weights)
        for image, title in ((1.2, 1), (0.8, 1), (1, 1.2), (1, 0.8)):
            if weights.image * image < 0.1:
                continue  # the least that is tried
            assert best <= loss(replace(weights, image=weights.image * image, title=weights.title * title)) + 0.1
    alone = fit_title_weights(model, cells.split(100), titles, drawn["alone"])
    assert alone.named.alone > 1.2 > alone.other.alone


@torch.no_grad()
def test_with_few_titles_that_name_a_label_there_is_one_kind() -> None:
    model, images = make()
    found = fit_title_weights(model, [model.encoder(images)], TITLES, np.zeros(6, dtype=np.int64))
    assert found.named == found.other


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
    "weights",
    [
        None,
        {},
        [1.0, 1.0],
        {"named": {"image": 1.0, "title": 1.0, "alone": 1.0}},
        WEIGHTS.to_json() | {"other": {"image": 1.0, "title": -1.0, "alone": 1.0}},
        WEIGHTS.to_json() | {"other": {"image": 1.0, "title": 1.0, "alone": 0.0}},
        WEIGHTS.to_json() | {"other": {"image": "nan", "title": 1.0, "alone": 1.0}},
    ],
)
def test_weights_that_are_none_are_refused(weights: object, tmp_path: Path) -> None:
    model, _ = make()
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    description = tmp_path / "model/model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"title_weights": weights}))
    with pytest.raises(CheckpointError):
        load_categorizer(tmp_path / "model", CPU)


def test_a_model_from_before_titles_still_loads(tmp_path: Path) -> None:
    model = Categorizer(replace(ARCHITECTURE, title="none", title_buckets=0, title_size=0), TAXONOMY).eval()
    save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
    description = tmp_path / "model/model.json"
    content = json.loads(description.read_text())
    assert "title_weights" not in content
    for key in ("title", "title_buckets", "title_size"):
        del content["architecture"][key]
    description.write_text(json.dumps(content))
    loaded, _ = load_categorizer(tmp_path / "model", CPU)
    assert loaded.architecture == model.architecture
    assert not reads_titles(loaded)
