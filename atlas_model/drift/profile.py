"""The profile of a crawl, to compare it with later ones: counts, quantiles, and embeddings of a sample of images.

A profile takes some hundred kB, whatever the size of the crawl.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from atlas_model.taxonomy.tree import SEPARATOR

POINTS = 1000  # quantiles that replace a larger number of values: a resolution of .001 in shares
MOST_CURRENCIES = 8  # currencies whose prices are kept: the most frequent ones
NO_PRICE, NO_CURRENCY = "no price", "price without currency"
PRODUCT_COLUMNS = ("title", "price", "currency", "taxonomy")  # columns of products.parquet for a profile


@dataclass(frozen=True)
class Distribution:
    """A distribution of numbers."""

    n: int  # number of values
    values: Float[np.ndarray, "k"]  # all of them, sorted; or `POINTS` quantiles

    @classmethod
    def of(cls, values: Float[np.ndarray, "n"] | Int[np.ndarray, "n"]) -> Self:
        """Make it from ``values`` in any order."""
        ordered = np.sort(values).astype(np.float64)
        if len(ordered) > POINTS:
            ordered = np.quantile(ordered, (np.arange(POINTS) + 0.5) / POINTS, method="inverted_cdf")
        return cls(len(values), ordered)


@dataclass(frozen=True)
class CrawlProfile:
    """The summary of a crawl."""

    products: int
    categories: dict[str, int]  # "A > B > C" -> products
    currencies: dict[str, int]  # currency, `NO_PRICE` or `NO_CURRENCY` -> products
    prices: dict[str, Distribution]  # by currency
    title_lengths: Distribution  # characters
    image_sizes: Distribution | None  # pixels of each distinct image; None: the images no longer exist
    encoder: str | None  # the model of the embeddings; those of different models are not comparable
    embeddings: Float[np.ndarray, "n d"]  # of a sample of the images; saved in half precision

    @classmethod
    def of(
        cls,
        products: pa.Table,
        image_sizes: Int[np.ndarray, "n"] | None = None,
        encoder: str | None = None,
        embeddings: Float[np.ndarray, "m d"] | None = None,
    ) -> Self:
        """Make it from a table with `PRODUCT_COLUMNS`, and from its images if they are available."""
        lengths = pc.utf8_length(products["title"]).to_numpy()
        priced = pc.fill_null(products["currency"], NO_CURRENCY)
        currency = pc.if_else(pc.is_valid(products["price"]), priced, NO_PRICE)
        currencies = _counted(currency)
        most = sorted(currencies.keys() - {NO_PRICE}, key=lambda name: (-currencies[name], name))[:MOST_CURRENCIES]
        prices = pc.cast(products["price"], pa.float64())
        return cls(
            products=products.num_rows,
            categories=_counted(pc.binary_join(products["taxonomy"], SEPARATOR)),
            currencies=currencies,
            prices={name: Distribution.of(prices.filter(pc.equal(currency, name)).to_numpy()) for name in sorted(most)},
            title_lengths=Distribution.of(lengths),
            image_sizes=None if image_sizes is None else Distribution.of(image_sizes),
            encoder=encoder,
            embeddings=np.zeros((0, 0)) if embeddings is None else embeddings,
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; the embeddings in half precision."""
        return {
            "products": self.products,
            "categories": self.categories,
            "currencies": self.currencies,
            "prices": {name: _numbers_to_json(numbers) for name, numbers in self.prices.items()},
            "title_lengths": _numbers_to_json(self.title_lengths),
            "image_sizes": self.image_sizes and _numbers_to_json(self.image_sizes),
            "encoder": self.encoder,
            "embeddings": {
                "shape": self.embeddings.shape,
                "float16": base64.b64encode(self.embeddings.astype("<f2").tobytes()).decode(),
            },
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: the value has another form.
        """
        embeddings = np.frombuffer(base64.b64decode(value["embeddings"]["float16"]), dtype="<f2")
        return cls(
            products=value["products"],
            categories=value["categories"],
            currencies=value["currencies"],
            prices={name: _numbers_from_json(numbers) for name, numbers in value["prices"].items()},
            title_lengths=_numbers_from_json(value["title_lengths"]),
            image_sizes=value["image_sizes"] and _numbers_from_json(value["image_sizes"]),
            encoder=value["encoder"],
            embeddings=embeddings.reshape(value["embeddings"]["shape"]),
        )


def _counted(names: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted(_counts(names)))


def _counts(names: pa.ChunkedArray) -> Iterator[tuple[str, int]]:
    for row in pc.value_counts(names).to_pylist():
        yield row["values"], row["counts"]


def _numbers_to_json(numbers: Distribution) -> dict[str, Any]:
    return {"n": numbers.n, "values": numbers.values.tolist()}


def _numbers_from_json(value: dict[str, Any]) -> Distribution:
    return Distribution(value["n"], np.array(value["values"], dtype=np.float64))
