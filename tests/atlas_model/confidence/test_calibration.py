"""Temperature scaling on calibrated and overconfident models, calibration error, and the depth of predictions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from atlas_model.confidence.calibration import (
    MIN_TEMPERATURE,
    abstention_curve,
    deepest_confident,
    descend,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from atlas_model.model.beam_search import DeviceTrie, Normalize
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.exact_search import exact_search
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.lookup import categorizer, classifier
from tests.support.slow_search import make_decoder, normalizes, taxonomies

CPU = torch.device("cpu")
FIVE = Taxonomy([(name,) for name in "abcde"])
MANY_LEAVES = Taxonomy([("Bags",), ("Shoes",), ("Shoes", "Boots"), ("Shoes", "Clogs"), ("Shoes", "Pumps")])


def log_p(taxonomy: Taxonomy, probabilities: dict[tuple[str, ...], float]) -> torch.Tensor:
    """log p of the nodes, from the probabilities of the paths."""
    found = torch.zeros(1, len(taxonomy.trie.path))
    for path, probability in probabilities.items():
        route = taxonomy.trie.routes[taxonomy.index(path)]
        found[0, [0, *route[route >= 0]]] += probability
    return found.log()


@pytest.mark.parametrize(
    ("min_confidence", "names", "probability"),
    [
        (0.65, (), 1.0),
        (0.59, ("Shoes",), 0.6),
        (0.31, ("Shoes",), 0.6),
        (0.29, ("Shoes", "Boots"), 0.3),
        (0.0, ("Shoes", "Boots"), 0.3),
    ],
)
def test_confident_branch_is_preferred_to_the_most_probable_path(
    min_confidence: float, names: tuple[str, ...], probability: float
) -> None:
    given = {("Bags",): 0.4, ("Shoes",): 0.1, ("Shoes", "Boots"): 0.3, ("Shoes", "Clogs"): 0.2, ("Shoes", "Pumps"): 0.0}
    ((got, p),) = deepest_confident(MANY_LEAVES, log_p(MANY_LEAVES, given), min_confidence)
    assert (got, p) == (names, pytest.approx(probability, abs=1e-6))


def test_path_may_end_at_an_inner_node() -> None:
    given = {("Bags",): 0.1, ("Shoes",): 0.8, ("Shoes", "Boots"): 0.1}
    sure, unsure = (deepest_confident(MANY_LEAVES, log_p(MANY_LEAVES, given), at)[0] for at in (0.75, 0.85))
    assert sure == (("Shoes",), pytest.approx(0.8)), "END adds no name to the path"
    assert unsure == (("Shoes",), pytest.approx(0.9))


@settings(max_examples=40)
@given(taxonomy=taxonomies, min_confidence=st.floats(0, 0.99), seed=st.integers(0, 10_000))
def test_above_one_half_it_is_the_deepest_confident_prefix(
    taxonomy: Taxonomy, min_confidence: float, seed: int
) -> None:
    decoder = make_decoder(len(taxonomy.tokens), seed, sharpness=30.0)
    _, log_p = exact_search(
        decoder, torch.randn(4, 4, 6), DeviceTrie.of(taxonomy.trie, CPU), top=1, normalize="children"
    )
    ends = log_p[:, taxonomy.trie.routes.max(axis=1)].exp().tolist()  # of the paths
    for row, (names, probability) in enumerate(deepest_confident(taxonomy, log_p, min_confidence)):
        of_prefix: dict[tuple[str, ...], float] = {(): 0.0}
        for path, p in zip(taxonomy.paths, ends[row], strict=True):
            for depth in range(len(path) + 1):
                of_prefix[path[:depth]] = of_prefix.get(path[:depth], 0.0) + p
        assert min_confidence <= probability <= of_prefix[names] + 1e-5
        if min_confidence > 0.5:
            assert names == max((each for each in of_prefix if of_prefix[each] >= min_confidence), key=len)


def path_log_p(model: Categorizer, cells: Tensor, temperature: float) -> Tensor:
    """log p of every path, by exact search."""
    trie = DeviceTrie.of(model.taxonomy.trie, CPU)
    kind = model.architecture.normalize
    _, log_p = exact_search(model.decoder, cells, trie, top=1, normalize=kind, temperature=temperature)
    return log_p[:, model.taxonomy.trie.routes.max(axis=1)]


def drawn(log_p: Tensor) -> np.ndarray:
    """One class per image, drawn with the model's probabilities."""
    return torch.multinomial(log_p.exp(), 1, generator=torch.Generator().manual_seed(1)).squeeze(1).numpy()


@pytest.mark.parametrize("boast", [1.0, 3.0, 0.5])
def test_temperature_of_classifier_equals_its_overconfidence(boast: float) -> None:
    logits = 2 * torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    right = drawn(logits.log_softmax(dim=1))
    temperature = fit_temperature(classifier(FIVE), (boast * logits).unsqueeze(1).split(1500), right)
    assert temperature == pytest.approx(boast, rel=0.05)


@pytest.mark.parametrize("boast", [1.0, 3.0])
def test_temperature_of_categorizer_equals_its_overconfidence(boast: float) -> None:
    cells = torch.randn(3000, 4, 6, generator=torch.Generator().manual_seed(0))
    model = categorizer(MANY_LEAVES, "children", seed=3)
    right = drawn(path_log_p(model, cells, 1.0))
    with torch.no_grad():
        model.decoder.output.weight.mul_(boast)
        model.decoder.output.bias.mul_(boast)
    assert fit_temperature(model, cells.split(1100), right) == pytest.approx(boast, rel=0.06)


@settings(max_examples=15)
@given(taxonomy=taxonomies, normalize=normalizes, seed=st.integers(0, 10_000))
def test_fitted_temperature_maximizes_the_likelihood(taxonomy: Taxonomy, normalize: Normalize, seed: int) -> None:
    assume(len(taxonomy) > 1)
    cells = torch.randn(40, 4, 6)
    model = categorizer(taxonomy, normalize, seed)
    right = np.random.default_rng(seed).integers(len(taxonomy), size=40)
    model.temperature = 7.0  # is neither used nor changed

    def likelihood(temperature: float) -> float:
        return float(path_log_p(model, cells, temperature).gather(1, torch.from_numpy(right)[:, None]).double().mean())

    found = fit_temperature(model, cells.split(16), right)
    assert model.temperature == 7.0
    assert found == fit_temperature(model, cells.split(16), right)
    others = [other for other in (found / 1.1, found * 1.1) if 0.1 <= other <= 10]
    assert all(likelihood(found) >= likelihood(other) - 1e-6 for other in others)


def test_temperature_is_minimal_without_errors_and_1_without_data() -> None:
    sure = classifier(FIVE)
    assert fit_temperature(sure, [5 * torch.eye(5).unsqueeze(1)], np.arange(5)) < 2 * MIN_TEMPERATURE
    assert fit_temperature(sure, [], np.array([], dtype=np.int64)) == 1.0
    alone = categorizer(Taxonomy([("Bags",)]), "children", seed=0)
    assert fit_temperature(alone, [torch.randn(3, 4, 6)], np.zeros(3, dtype=np.int64)) == 1.0


@settings(max_examples=25)
@given(taxonomy=taxonomies, temperature=st.floats(0.2, 5), seed=st.integers(0, 10_000))
def test_temperature_keeps_path_sum_and_order_of_siblings(taxonomy: Taxonomy, temperature: float, seed: int) -> None:
    trie, decoder = taxonomy.trie, make_decoder(len(taxonomy.tokens), seed)
    device_trie, cells = DeviceTrie.of(trie, CPU), torch.randn(3, 4, 6)
    before, after = (
        exact_search(decoder, cells, device_trie, top=1, normalize="children", temperature=each)[1]
        for each in (1.0, temperature)
    )
    assert torch.allclose(after[:, trie.routes.max(axis=1)].exp().sum(dim=1), torch.ones(3), atol=1e-4)
    for node in range(len(trie.path)):
        children = slice(trie.first[node] + 1, trie.first[node + 1] + 1)
        gaps = [log_p[:, children].diff(dim=1) for log_p in (before, after)]
        assert torch.allclose(gaps[1], gaps[0] / temperature, atol=1e-3)


def test_calibration_error_of_a_hand_computed_case() -> None:
    # Ten at .9, eight right: overconfident by .1; five at .5, three right: underconfident by .1; one at 0, wrong.
    confidence = np.array([0.9] * 10 + [0.5] * 5 + [0.0])
    right = np.array([True] * 8 + [False] * 2 + [True] * 3 + [False] * 2 + [False])
    assert expected_calibration_error(confidence, right) == pytest.approx((10 * 0.1 + 5 * 0.1) / 16)
    rows = reliability(confidence, right)
    assert [row["n"] for row in rows] == [1, 5, 10]
    assert [row["accuracy"] for row in rows] == pytest.approx([0, 0.6, 0.8])
    assert [row["confidence"] for row in rows] == pytest.approx([0, 0.5, 0.9])


def test_calibration_errors_cancel_only_within_a_bin() -> None:
    right = np.array([True, False])
    assert expected_calibration_error(np.array([0.5, 0.5]), right) == 0.0
    assert expected_calibration_error(np.array([0.6, 0.4]), right) == pytest.approx(0.4)
    assert expected_calibration_error(np.array([1 / 15, 1 / 15 + 1e-9]), right) > 0.4, "a bin includes its upper edge"


def test_weight_equals_number_of_repetitions() -> None:
    generator = np.random.default_rng(0)
    confidence, right, weight = generator.random(50), generator.random(50) < 0.5, generator.integers(0, 4, 50)
    repeated = expected_calibration_error(np.repeat(confidence, weight), np.repeat(right, weight))
    assert expected_calibration_error(confidence, right, weight) == pytest.approx(repeated)


@pytest.fixture
def two_images() -> Callable[[float], dict[str, float | None]]:
    """The row of the curve for a threshold: a confident correct Boots, an unconfident Shoes that are Bags."""
    sure = {("Bags",): 0.1, ("Shoes",): 0.1, ("Shoes", "Boots"): 0.8}
    unsure = {("Bags",): 0.4, ("Shoes",): 0.5, ("Shoes", "Boots"): 0.1}
    both = torch.cat([log_p(MANY_LEAVES, probabilities) for probabilities in (sure, unsure)])
    actual = np.array([MANY_LEAVES.index(("Shoes", "Boots")), MANY_LEAVES.index(("Bags",))])

    def row(threshold: float) -> dict[str, float | None]:
        (found,) = abstention_curve(MANY_LEAVES, actual, descend(MANY_LEAVES.trie, both), [threshold])
        return found

    return row


@pytest.mark.parametrize(
    ("threshold", "answered", "complete", "accuracy", "mean_depth", "coverage_2"),
    [
        (0.0, 1, 1, 1 / 2, 3 / 2, 1),  # Shoes > Boots, and Shoes that end there
        (0.55, 1, 1 / 2, 1 / 2, 3 / 2, 1),  # the same names, but the second path may be incomplete
        (0.7, 1 / 2, 1 / 2, 1, 1, 1),  # the second gets no prediction
        (0.85, 1 / 2, 0, 1, 1 / 2, 0),  # Shoes, and no prediction
        (0.95, 0, 0, None, 0, 0),
    ],
)
def test_abstention_curve_of_a_hand_computed_case(
    two_images: Callable[[float], dict[str, float | None]],
    threshold: float,
    answered: float,
    complete: float,
    accuracy: float | None,
    mean_depth: float,
    coverage_2: float,
) -> None:
    assert two_images(threshold) == {
        "min_confidence": threshold,
        "answered": answered,
        "complete": complete,
        "accuracy": accuracy,
        "mean_depth": mean_depth,
        "coverage_1": answered,
        "coverage_2": coverage_2,
    }
