"""Evaluation of models with random weights, compared with direct predictions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from atlas_model.confidence.calibration import expected_calibration_error
from atlas_model.data.dataset import Split
from atlas_model.data.images import Preprocessing
from atlas_model.evaluate.evaluation import Evaluation, evaluate, evaluate_baseline
from atlas_model.model.beam_search import Normalize
from atlas_model.model.categorizer import Categorizer
from atlas_model.taxonomy.tree import END, Taxonomy
from tests.support.lookup import Lookup, categorizer, classifier, numbered

CPU = torch.device("cpu")
TAXONOMY = Taxonomy(
    [("Bags",), ("Shoes",), ("Shoes", "Boots"), ("Shoes", "Clogs", "Red"), ("Hats", "Caps"), ("Hats", "Hoods")]
)
COUNT = 30
HOW: dict[str, Any] = {"resamples": 10, "seed": 1, "batch_size": 7, "device": CPU}


@pytest.fixture(scope="module")
def split() -> Split:
    names = [str(row) for row in range(COUNT)]
    paths = np.random.default_rng(0).integers(len(TAXONOMY), size=COUNT)
    return Split("test", numbered(COUNT).numpy(), paths, names, names, Preprocessing(2, "L", "squash"))


def make_model(
    normalize: Normalize = "vocabulary", temperature: float = 1.0, taxonomy: Taxonomy = TAXONOMY
) -> Categorizer:
    cells = 2 * torch.randn(COUNT, 4, 6, generator=torch.Generator().manual_seed(0))
    model = categorizer(taxonomy, normalize, seed=9)
    model.encoder = Lookup(cells)  # type: ignore[assignment]  # a stand-in
    model.temperature = temperature
    return model


def measure(model: Categorizer, split: Split, **changes: Any) -> Evaluation:
    given = {"beam": 5, "length_normalization": 0.0, "exact_nodes": 1000, **HOW, **changes}
    return evaluate(model, split, np.arange(COUNT), **given)["image"]


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
def test_figures_equal_direct_predictions(split: Split, normalize: Normalize) -> None:
    model = make_model(normalize, temperature=2.0)
    evaluation = measure(model, split, beam=1)
    images = split.images(np.arange(COUNT), CPU)
    found, (exact, log_p) = model.search(images, beam=1), model.exact(images)
    assert evaluation.predicted.tolist() == found.path[:, 0].tolist()
    assert np.allclose(evaluation.log_probability, found.log_probability[:, 0], atol=1e-5)
    right = log_p[torch.arange(COUNT), TAXONOMY.trie.routes.max(axis=1)[split.paths]]
    figures = evaluation.figures
    assert figures["nll"] == pytest.approx(-float(right.mean()), abs=1e-5)
    assert figures["beam_equals_exact"] == float((found.path == exact.path).double().mean())
    assert normalize == "vocabulary" or figures["beam_equals_exact"] < 1, "otherwise the test has no effect"
    assert measure(model, split).figures["beam_equals_exact"] == 1
    assert figures["exact_n"] == COUNT
    assert figures["micro_f1"] == (evaluation.predicted == split.paths).mean()
    low, high = figures["intervals"]["micro_f1"]
    assert low <= figures["micro_f1"] <= high


def test_uncalibrated_figures_use_temperature_1(split: Split) -> None:
    warm, plain = measure(make_model(temperature=4.0), split), measure(make_model(), split)
    assert warm.figures["ece_uncalibrated"] == plain.figures["ece"] == plain.figures["ece_uncalibrated"]
    assert warm.uncalibrated_reliability == plain.reliability
    confidence = np.exp(warm.log_probability)
    assert warm.figures["ece"] == expected_calibration_error(confidence, warm.predicted == split.paths)
    assert warm.figures["ece"] != warm.figures["ece_uncalibrated"]


@pytest.mark.parametrize("length_normalization", [0.0, 2.0])
def test_measures_the_effect_of_the_constraint(split: Split, length_normalization: float) -> None:
    nearly_anything_goes = Taxonomy([("a",), ("b",), ("a", "a"), ("a", "b"), ("b", "a"), ("c", "c")])
    model = make_model(taxonomy=nearly_anything_goes)
    with torch.no_grad():
        model.decoder.output.bias[:END] -= 50  # effectively disables these tokens
        model.decoder.output.bias[END] -= 5
    figures = measure(model, split, length_normalization=length_normalization).figures
    images = split.images(np.arange(COUNT), CPU)
    found = model.search(images, beam=5, constrained=False, length_normalization=length_normalization)
    free = found.tokens[:, 0]
    targets = torch.from_numpy(nearly_anything_goes.targets)
    written = [(targets == tokens).all(dim=1).nonzero().flatten().tolist() for tokens in free]
    right = [paths == [path] for paths, path in zip(written, split.paths, strict=True)]
    assert figures["invalid_paths"] == 0
    assert 0 < figures["unconstrained_invalid_share"] == sum(not paths for paths in written) / COUNT < 1
    assert 0 < figures["unconstrained_micro_f1"] == sum(right) / COUNT < 1


def test_no_unconstrained_search_for_models_over_children(split: Split) -> None:
    figures = measure(make_model("children"), split).figures
    assert figures["unconstrained_invalid_share"] is None
    assert figures["unconstrained_micro_f1"] is None


@pytest.mark.parametrize(("exact_nodes", "exact_n"), [(1, 1), (100, 100 // len(TAXONOMY.trie.path)), (10**9, COUNT)])
def test_exact_search_of_large_taxonomy_uses_a_sample(split: Split, exact_nodes: int, exact_n: int) -> None:
    evaluation = measure(make_model("children"), split, exact_nodes=exact_nodes)
    assert evaluation.figures["exact_n"] == exact_n
    assert len(evaluation.predicted) == evaluation.figures["n"] == COUNT


def test_abstention_curve_ends_at_the_highest_threshold(split: Split) -> None:
    evaluation = measure(make_model("children"), split)
    first, last = evaluation.abstention[0], evaluation.abstention[-1]
    assert first["answered"] == first["complete"] == 1
    depths = [row["mean_depth"] for row in evaluation.abstention]
    assert depths == sorted(depths, reverse=True)
    assert last["min_confidence"] == 0.99
    assert evaluation.figures["min_confidence_0.9"] in evaluation.abstention


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
def test_products_are_predicted_from_all_their_images(split: Split, normalize: Normalize) -> None:
    products = [f"p{row % 12}" if row < 24 else str(row) for row in range(COUNT)]  # 12 pairs, 6 single images
    paths = np.concatenate([split.paths[:12], split.paths[:12], split.paths[24:]])
    of_products = replace(split, product_ids=products, paths=paths)
    model = make_model(normalize, temperature=2.0)
    rows = np.arange(COUNT)[::-1].copy()
    evaluation = evaluate(model, of_products, rows, beam=5, length_normalization=0.0, exact_nodes=1000, **HOW)["image"]
    _, log_p = model.exact(split.images(np.arange(COUNT), CPU))
    ends = log_p.exp()[:, TAXONOMY.trie.routes.max(axis=1)].double().numpy()
    table = {row["product_id"]: row for row in evaluation.product_table(TAXONOMY).to_pylist()}
    assert set(table) == set(products)
    right, confidence, disagree = [], [], []
    for product, row in table.items():
        own = [index for index, each in enumerate(products) if each == product]
        mean = ends[own].mean(axis=0)
        assert TAXONOMY.labels.index(row["predicted_category"]) == mean.argmax()
        assert row["log_probability"] == pytest.approx(np.log(mean.max()), abs=1e-4)
        assert (row["images"], row["split_value"]) == (len(own), "test")
        assert row["actual_category"] == TAXONOMY.labels[paths[own[0]]]
        assert row["disagree"] == (set(ends[own].argmax(axis=1)) != {mean.argmax()})
        right.append(row["actual_category"] == row["predicted_category"])
        confidence.append(mean.max())
        disagree += [row["disagree"]] * (len(own) > 1)
    figures = evaluation.figures["products"]
    assert (figures["n"], figures["several_images"]) == (18, 12 / 18)
    assert figures["micro_f1"] == pytest.approx(np.mean(right))
    assert figures["ece"] == pytest.approx(expected_calibration_error(np.array(confidence), np.array(right)), abs=1e-5)
    assert 0 < figures["disagree"] == np.mean(disagree) < 1
    assert figures["intervals"]["micro_f1"][0] <= figures["micro_f1"] <= figures["intervals"]["micro_f1"][1]


def test_exact_search_sample_has_whole_products(split: Split) -> None:
    of_products = replace(split, product_ids=[f"p{row % 10}" for row in range(COUNT)])
    nodes = len(TAXONOMY.trie.path)
    evaluation = evaluate(
        make_model(), of_products, np.arange(COUNT), beam=5, length_normalization=0.0, exact_nodes=14 * nodes, **HOW
    )["image"]
    assert evaluation.figures["exact_n"] == 12
    assert evaluation.figures["products"]["n"] == 4
    assert evaluation.pooled is not None and set(evaluation.pooled.images.tolist()) == {3}


def test_product_figures_equal_image_figures_for_single_images(split: Split) -> None:
    figures = measure(make_model("children", temperature=2.0), split).figures
    for name in ("micro_f1", "macro_f1", "n"):
        assert figures["products"][name] == figures[name]
    assert figures["products"]["ece"] == pytest.approx(figures["ece"], abs=1e-5)
    assert figures["products"]["disagree"] is None
    assert figures["products"]["intervals"]["macro_f1"] == pytest.approx(figures["intervals"]["macro_f1"])


def test_evaluates_the_baseline(split: Split) -> None:
    logits = torch.randn(COUNT, len(TAXONOMY), generator=torch.Generator().manual_seed(0))
    model = classifier(TAXONOMY)
    model.encoder = Lookup(logits.unsqueeze(1))  # type: ignore[assignment]  # a stand-in
    model.temperature = 0.5
    evaluation = evaluate_baseline(model, split, **HOW)
    log_p = (logits / 0.5).log_softmax(dim=1)
    assert evaluation.predicted.tolist() == logits.argmax(dim=1).tolist()
    assert np.allclose(evaluation.log_probability, log_p.max(dim=1).values, atol=1e-4)
    right = log_p[torch.arange(COUNT), split.paths]
    assert evaluation.figures["nll"] == pytest.approx(-float(right.mean()), abs=1e-4)
    cold, plain = (
        expected_calibration_error(each.softmax(dim=1).max(dim=1).values.numpy(), evaluation.predicted == split.paths)
        for each in (logits / 0.5, logits)
    )
    assert evaluation.figures["ece"] == pytest.approx(cold, abs=1e-5)
    assert evaluation.figures["ece_uncalibrated"] == pytest.approx(plain, abs=1e-5)
