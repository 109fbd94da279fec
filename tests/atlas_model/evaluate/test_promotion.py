"""The promotion decision between two models: compared with a slow reference, and on typical cases."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from atlas_model.evaluate.promotion import HEADLINE, OF_PRODUCTS, ProductPredictions, PromotionDecision, compare_models
from atlas_model.metrics.bootstrap import PERCENTILES, draws

CATEGORIES = ("Shirts", "Jeans", "Bags")
RULE: dict[str, Any] = {"margin": 0.02, "category_margin": 0.1, "large_category": 50, "resamples": 200, "seed": 1}


def verdict(actual: list[str], champion: list[str], challenger: list[str], **changes: Any) -> PromotionDecision:
    """The decision for images that are each a product of their own."""
    given = {"known": CATEGORIES, "products": [str(number) for number in range(len(actual))], **RULE, **changes}
    return compare_models(actual, champion, challenger, **given)


def answers(right: dict[str, float], actual: list[str], instead: str = "Bags") -> list[str]:
    """Predictions: in each category the first share ``right`` of the images is correct, the rest is ``instead``."""
    found = []
    for category in CATEGORIES:
        count = actual.count(category)
        hits = round(right.get(category, 1.0) * count)
        found += [category] * hits + [instead] * (count - hits)
    return found


ACTUAL = ["Shirts"] * 200 + ["Jeans"] * 200 + ["Bags"] * 20  # in the order of CATEGORIES


def test_figures_and_intervals_equal_slow_bootstrap() -> None:
    generator = np.random.default_rng(3)
    actual, champion, challenger = (generator.choice(CATEGORIES, 90).tolist() for _ in range(3))
    products = [str(number // 2) for number in range(90)]
    rule = {"large_category": 20, "resamples": 30, "seed": 7}
    found = verdict(actual, champion, challenger, products=products, **rule)

    def figures(weight: np.ndarray, answered: list[str]) -> list[float]:
        right, drawn = (np.repeat(each, weight) for each in (actual, answered))
        each = f1_score(right, drawn, labels=sorted(CATEGORIES), average=None, zero_division=0)
        return [f1_score(right, drawn, average="micro"), *each]

    differences = [
        np.subtract(figures(weight, challenger), figures(weight, champion)) for weight in draws(products, 30, 7)
    ]
    once = np.ones(90, dtype=int)
    assert [c.figure for c in found.comparisons] == ["micro F", "F of Bags", "F of Jeans", "F of Shirts"]
    assert [c.champion for c in found.comparisons] == pytest.approx(figures(once, champion))
    assert [c.challenger for c in found.comparisons] == pytest.approx(figures(once, challenger))
    low, high = np.percentile(differences, PERCENTILES, axis=0)
    assert [c.interval[0] for c in found.comparisons] == pytest.approx(low)
    assert [c.interval[1] for c in found.comparisons] == pytest.approx(high)
    assert [c.count for c in found.comparisons] == [90, *(actual.count(name) for name in sorted(CATEGORIES))]


def test_identical_predictions_pass_with_zero_margin() -> None:
    given = answers({"Shirts": 0.8}, ACTUAL)
    found = verdict(ACTUAL, given, given, margin=0.0, category_margin=0.0)
    assert found.accepted
    assert found.comparisons[0].interval == (0.0, 0.0)


def test_better_model_passes_and_worse_model_does_not() -> None:
    worse, better = answers({"Shirts": 0.6}, ACTUAL), answers({"Shirts": 0.9}, ACTUAL)
    assert verdict(ACTUAL, worse, better).accepted
    refused = verdict(ACTUAL, better, worse)
    assert not refused.accepted
    assert "may be inferior by more than the margin on 420 validation images: micro F" in refused.reason
    assert "F of Shirts" in refused.reason
    assert "F of Jeans" not in refused.reason, "Jeans is as good as before"


def test_too_few_images_are_refused() -> None:
    """The error rate is equal for 20 and for 2000 images; only 2000 give an interval within the margin."""
    for count, accepted in ((20, False), (2000, True)):
        actual = ["Shirts"] * count
        champion = ["Shirts" if number % 10 else "Bags" for number in range(count)]
        challenger = ["Shirts" if number % 10 != 1 else "Bags" for number in range(count)]
        found = verdict(actual, champion, challenger, category_margin=1.0)
        assert found.comparisons[0].champion == found.comparisons[0].challenger == 0.9
        assert found.accepted is accepted


def test_worse_large_category_is_refused_and_small_one_is_not() -> None:
    actual = ["Shirts"] * 900 + ["Jeans"] * 60 + ["Bags"] * 40
    champion = answers({"Shirts": 0.9}, actual)
    worse_jeans = answers({"Shirts": 0.98, "Jeans": 0.5}, actual)
    worse_bags = answers({"Bags": 0.5}, actual, instead="Shirts")
    refused = verdict(actual, champion, worse_jeans)
    assert refused.comparisons[0].passed, "the overall figure got better"
    assert not refused.accepted
    assert refused.reason.startswith("may be inferior by more than the margin on 1000 validation images: F of Jeans")
    assert verdict(actual, champion, worse_bags).accepted


def test_overpredicted_category_is_refused() -> None:
    """Its recall is 1, but its F score is lower."""
    actual = ["Shirts"] * 500 + ["Jeans"] * 300 + ["Bags"] * 200
    champion, challenger = actual, ["Shirts"] * 500 + ["Jeans"] * 300 + ["Shirts"] * 200
    shirts = next(c for c in verdict(actual, champion, challenger).comparisons if c.figure == "F of Shirts")
    assert shirts.challenger == pytest.approx(2 * 500 / (500 + 700))
    assert not shirts.passed


def test_images_of_a_product_are_resampled_together() -> None:
    actual = ["Shirts"] * 400
    champion = ["Shirts" if number // 4 % 2 else "Bags" for number in range(400)]
    challenger = ["Shirts"] * 400
    widths = []
    for products in ([str(number) for number in range(400)], [str(number // 4) for number in range(400)]):
        low, high = verdict(actual, champion, challenger, products=products).comparisons[0].interval
        widths.append(high - low)
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.3), (
        "four equal images count as one: the interval is twice as wide"
    )


def test_compares_only_categories_of_both_models() -> None:
    champion, challenger = ["Shirts"] * 420, ACTUAL
    found = verdict(ACTUAL, champion, challenger, known={"Shirts"})
    assert (found.images, found.skipped) == (200, 220)
    assert found.accepted
    assert "220 images skipped" in found.reason
    nothing = verdict(ACTUAL, champion, challenger, known=set())
    assert not nothing.accepted
    assert nothing.comparisons == ()
    assert nothing.reason == "nothing to compare on: of 420 validation images none has a category of both models"


def test_compares_products_and_images() -> None:
    generator = np.random.default_rng(5)
    right = generator.choice(CATEGORIES, 60)
    old, new = (np.where(generator.random(60) < share, right, "Bags") for share in (0.6, 0.8))
    given = ProductPredictions(right.tolist(), old.tolist(), new.tolist())
    found = verdict(ACTUAL, ACTUAL, ACTUAL, of_products=given, known={"Shirts", "Jeans"}, resamples=40, seed=3)
    headline, products, *_ = found.comparisons
    kept = right != "Bags"
    assert (headline.figure, products.figure) == (HEADLINE, OF_PRODUCTS)
    assert products.count == kept.sum()
    assert products.champion == pytest.approx((old == right)[kept].mean())
    assert products.challenger == pytest.approx((new == right)[kept].mean())
    gain = (new == right)[kept].astype(float) - (old == right)[kept]
    drawn = [np.repeat(gain, weight).mean() for weight in draws([str(number) for number in range(kept.sum())], 40, 3)]
    assert products.interval == pytest.approx(tuple(np.percentile(drawn, PERCENTILES)))
    assert products.margin == RULE["margin"]


@pytest.mark.parametrize("level", ["images", "products"])
def test_refuses_model_that_is_worse_for_images_or_products(level: str) -> None:
    worse = answers({"Shirts": 0.7}, ACTUAL)
    products = ProductPredictions(ACTUAL, ACTUAL, worse if level == "products" else ACTUAL)
    found = verdict(ACTUAL, ACTUAL, worse if level == "images" else ACTUAL, of_products=products, category_margin=1.0)
    assert [c.figure for c in found.comparisons if not c.passed] == [HEADLINE if level == "images" else OF_PRODUCTS]
    assert not found.accepted
    assert verdict(ACTUAL, ACTUAL, ACTUAL, of_products=ProductPredictions(ACTUAL, ACTUAL, ACTUAL)).accepted


def test_reason_names_images_and_products() -> None:
    found = verdict(ACTUAL, ACTUAL, ACTUAL, of_products=ProductPredictions(ACTUAL, ACTUAL, ACTUAL))
    assert "micro F 1.0000" in found.reason and "micro F of products 1.0000" in found.reason
    assert "also the F of 2 large categories" in found.reason
    nothing = verdict(ACTUAL, ACTUAL, ACTUAL, of_products=ProductPredictions([], [], []))
    assert "products" not in nothing.reason and nothing.accepted
