"""Drift distances between crawls, compared with slow and scipy references, and thresholds for small samples."""

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from atlas_model.data.schemas import PRODUCTS
from atlas_model.drift.distances import (
    CHANCE,
    Figure,
    compare,
    energy_distance,
    kolmogorov_smirnov,
    kolmogorov_smirnov_by_chance,
    total_variation,
)
from atlas_model.drift.profile import MOST_CURRENCIES, NO_CURRENCY, NO_PRICE, POINTS, CrawlProfile, Distribution

THRESHOLDS: dict[str, Any] = {
    "categories": 0.1, "prices": 0.2, "title_lengths": 0.2, "image_sizes": 0.2, "embeddings": 0.1, "seed": 1
}  # fmt: skip


def row(number: int, **values: Any) -> dict[str, Any]:
    filled = {"product_id": f"a:{number:06}", "site": "a", "title": "Shirt", "price": Decimal(10), "currency": "EUR"}
    filled |= {"breadcrumb": [], "taxonomy": ["A", "B"], "details": [], "image_urls": []}
    return {**dict.fromkeys(PRODUCTS.names), **filled, **values}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=PRODUCTS)


def figures(old: CrawlProfile, new: CrawlProfile) -> dict[str, Figure]:
    return {figure.name: figure for figure in compare(old, new, **THRESHOLDS)}


# --- distances


def test_total_variation_is_half_the_sum_of_differences() -> None:
    assert total_variation(np.array([6, 4, 0]), np.array([30, 60, 10])) == pytest.approx(0.3)
    assert total_variation(np.array([1, 0]), np.array([0, 5])) == 1
    assert total_variation(np.array([1, 2]), np.array([50, 100])) == 0


def test_kolmogorov_smirnov_equals_scipy() -> None:
    generator = np.random.default_rng(0)
    for n, m, shift in [(1, 1, 0), (5, 900, 1), (300, 200, 0.2), (400, 400, 0)]:
        old, new = generator.normal(size=n).round(1), (generator.normal(size=m) + shift).round(1)
        expected = stats.ks_2samp(old, new).statistic
        assert kolmogorov_smirnov(np.sort(old), np.sort(new)) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (20, 50), (300, 200), (2000, 3000)])
def test_chance_threshold_of_two_samples_equals_scipy(n: int, m: int) -> None:
    critical = kolmogorov_smirnov_by_chance(n, m)
    p_value = stats.distributions.kstwo.sf(critical, round(n * m / (n + m)))
    assert p_value == pytest.approx(1 - CHANCE, rel=0.35)
    generator = np.random.default_rng(0)
    samples = [(np.sort(generator.random(n)), np.sort(generator.random(m))) for _ in range(400)]
    beyond = [kolmogorov_smirnov(*pair) > critical for pair in samples]
    assert np.mean(beyond) < 0.03


def test_five_prices_are_too_few_for_drift() -> None:
    assert kolmogorov_smirnov_by_chance(5, 5) > 0.9
    assert kolmogorov_smirnov_by_chance(1, 1) == 1


def test_quantiles_approximate_many_values() -> None:
    generator = np.random.default_rng(0)
    old, new = generator.normal(size=20_000), generator.normal(size=30_000) + 0.3
    few = [Distribution.of(values) for values in (old, new)]
    assert [len(numbers.values) for numbers in few] == [POINTS, POINTS]
    assert [numbers.n for numbers in few] == [20_000, 30_000]
    exact = stats.ks_2samp(old, new).statistic
    assert kolmogorov_smirnov(few[0].values, few[1].values) == pytest.approx(exact, abs=2 / POINTS)
    assert Distribution.of(np.array([3, 1, 2])).values.tolist() == [1, 2, 3]


def slow_energy_distance(old: np.ndarray, new: np.ndarray) -> float:
    def between(one: np.ndarray, other: np.ndarray) -> float:
        return sum(float(np.linalg.norm(a - b)) for a in one for b in other) / (len(one) * len(other))

    across = between(old, new)
    return float(np.sqrt((2 * across - between(old, old) - between(new, new)) / (2 * across)))


def test_energy_distance_equals_definition_and_scipy() -> None:
    generator = np.random.default_rng(0)
    old, new = generator.normal(size=(30, 4)), generator.normal(size=(20, 4)) + 0.5
    distance, _ = energy_distance(old, new, seed=1)
    assert distance == pytest.approx(slow_energy_distance(old, new))
    assert energy_distance(1000 * old, 1000 * new, seed=1)[0] == pytest.approx(distance), "independent of the scale"
    line = energy_distance(old[:, :1], new[:, :1], seed=1)[0]
    across = np.abs(old[:, :1] - new[:, 0]).mean()
    assert line == pytest.approx(stats.energy_distance(old[:, 0], new[:, 0]) / np.sqrt(2 * across))


def test_energy_distance_detects_different_distributions() -> None:
    generator = np.random.default_rng(0)
    cloud = generator.normal(size=(400, 8))
    assert energy_distance(cloud, cloud, seed=1)[0] == pytest.approx(0, abs=1e-6)
    pairs = (np.split(generator.normal(size=(200, 8)), [120]) for _ in range(20))
    within = [energy_distance(one, other, seed=1) for one, other in pairs]
    assert sum(distance > chance for distance, chance in within) <= 1
    distance, chance = energy_distance(cloud[:200], cloud[200:] + 1, seed=1)
    assert distance > 3 * chance
    assert energy_distance(np.zeros((3, 2)), np.zeros((2, 2)), seed=1) == (0, 0)
    far = energy_distance(np.zeros((2, 2)), np.ones((2, 2)), seed=1)[0]
    assert far == 1


# --- profiles


def profiled() -> CrawlProfile:
    rows = [row(number, title="x" * (number % 7 + 1)) for number in range(6)]
    rows += [row(6, price=None, currency=None), row(7, currency=None), row(8, currency="CHF", taxonomy=[])]
    return CrawlProfile.of(table(*rows), np.array([100, 400, 100]), "model", np.array([[1.0, 2.0], [3.0, 4.0]]))


def test_profile_counts_products_prices_and_titles() -> None:
    profile = profiled()
    assert profile.products == 9
    assert profile.categories == {"": 1, "A > B": 8}
    assert profile.currencies == {"EUR": 6, NO_PRICE: 1, NO_CURRENCY: 1, "CHF": 1}
    assert {name: numbers.n for name, numbers in profile.prices.items()} == {"CHF": 1, "EUR": 6, NO_CURRENCY: 1}
    assert profile.title_lengths.values.tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 6]
    assert profile.image_sizes is not None
    assert profile.image_sizes.values.tolist() == [100, 100, 400]


def test_profile_round_trips_through_json() -> None:
    for profile in (profiled(), CrawlProfile.of(table())):
        again = CrawlProfile.from_json(json.loads(json.dumps(profile.to_json(), allow_nan=False)))
        assert again.to_json() == profile.to_json()
        assert all(figure.distance in (0, None) for figure in figures(profile, again).values())


def test_profile_size_is_bounded() -> None:
    generator = np.random.default_rng(0)
    rows = [
        row(number, price=Decimal(int(generator.integers(1, 10**7))) / 100, currency=f"X{number % 40}", title="x" * 90)
        for number in range(4000)
    ]
    sizes = generator.integers(1, 10**7, size=50_000)
    profile = CrawlProfile.of(table(*rows), sizes, "model", generator.normal(size=(1000, 64)))
    assert len(profile.prices) == MOST_CURRENCIES
    assert sum(profile.currencies.values()) == 4000
    assert len(json.dumps(profile.to_json())) < 300_000


# --- comparisons of profiles


def test_distances_equal_the_simulated_drift() -> None:
    generator = np.random.default_rng(0)
    prices = generator.integers(100, 1000, size=1000)

    def crawl(factor: int, bags: int, length: int) -> CrawlProfile:
        rows = [
            row(
                number,
                price=Decimal(int(price) * factor),
                taxonomy=["Bags" if number < bags else "Shirts"],
                title="x" * (length if number % 2 else 20),
            )
            for number, price in enumerate(prices)
        ]
        return CrawlProfile.of(
            table(*rows), np.full(500, 64 * length), "model", generator.normal(size=(200, 3)) + bags / 400
        )

    found = figures(crawl(1, 0, 20), crawl(2, 400, 30))
    assert found["categories"].distance == pytest.approx(0.4)
    assert found["title lengths"].distance == pytest.approx(0.5)
    assert found["image sizes"].distance == 1
    assert found["prices in EUR"].distance == pytest.approx(stats.ks_2samp(prices, 2 * prices).statistic)
    assert found["currencies"].distance == 0
    assert {name for name, figure in found.items() if figure.drifted} == {*found} - {"currencies"}
    same = figures(crawl(1, 100, 20), crawl(1, 100, 20))
    assert list(same) == [
        "categories", "currencies", "prices in EUR", "title lengths", "image sizes", "embeddings",
    ]  # fmt: skip
    assert not any(figure.drifted for figure in same.values())


def test_few_products_show_no_drift() -> None:
    old = CrawlProfile.of(table(*(row(number, price=Decimal(5 + number)) for number in range(4))))
    new = CrawlProfile.of(table(*(row(number, price=Decimal(7 + number)) for number in range(4))))
    price = figures(old, new)["prices in EUR"]
    assert price.n == (4, 4)
    assert price.distance == 0.5 > price.threshold
    assert not price.drifted
    halves = [
        CrawlProfile.of(table(*(row(number, taxonomy=[name]) for number, name in enumerate(names))))
        for names in ("ABC", "AAB")
    ]
    categories = figures(*halves)["categories"]
    assert (categories.distance, categories.drifted) == (pytest.approx(1 / 3), False)


def test_changed_currency_is_drift_and_prices_are_not_compared() -> None:
    old = CrawlProfile.of(table(*(row(number) for number in range(300))))
    found = figures(old, CrawlProfile.of(table(*(row(number, currency="CHF") for number in range(300)))))
    assert (found["currencies"].distance, found["currencies"].drifted) == (1, True)
    assert not [name for name in found if name.startswith("prices")], "no currency is in both crawls"


def test_missing_data_is_noted_and_not_compared() -> None:
    manifest = table(*(row(number, price=None, currency=None) for number in range(20)))
    without = figures(CrawlProfile.of(manifest), profiled())
    assert without["image sizes"].note == without["embeddings"].note != ""
    nobody = figures(CrawlProfile.of(manifest), CrawlProfile.of(manifest))
    assert list(nobody) == ["categories", "title lengths", "image sizes", "embeddings"], "a manifest has no prices"
    cloud = np.zeros((5, 2))
    models = [CrawlProfile.of(manifest, np.array([1]), name, cloud) for name in ("one", "other")]
    assert "different models" in figures(*models)["embeddings"].note
    empty = [CrawlProfile.of(table(), np.zeros(0, dtype=np.int64), "model") for _ in range(2)]
    assert {figure.distance for figure in figures(*empty).values()} == {None}
