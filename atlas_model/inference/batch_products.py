"""Batch prediction for products: pools any number of images in any order, in bounded memory.

The distribution of each image is stored beside its predictions, without very improbable nodes. When all images are
done, a temporary SQLite database sorts them by product, and products are pooled one after the other. In memory are the
distribution of one product and one row group of predictions. After a kill the database is made anew.

The model is given as functions, so any model can be used.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from atlas_model.confidence.products import ProductPool
from atlas_model.core.progress import track
from atlas_model.data.schemas import PREDICTED_PRODUCTS, open_parquet, write_rows
from atlas_model.inference.predictor import Prediction, ProductPrediction
from atlas_model.taxonomy.tree import SEPARATOR

MIN_LOG_P = float(np.log(1e-7))  # less probable nodes are omitted: below the resolution of a mean in single precision
BATCH_ROWS = 256  # distributions that are read at once
DISTRIBUTIONS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("node", pa.list_(pa.int32())),  # of the taxonomy's trie; null: the image cannot be read
        pa.field("log_p", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class ProductOutput:
    """The output file for products, and the functions that predict them."""

    path: Path  # `schemas.PREDICTED_PRODUCTS`, by product_id
    # As `batch.PredictFunction`, but also returns log p of every node.
    predict: Callable[..., tuple[Sequence[Sequence[Prediction]], Float[np.ndarray, "b nodes"]]]
    pool: Callable[[], ProductPool]  # returns an empty pool
    predict_product: Callable[[ProductPool], ProductPrediction]


def distribution_rows(
    product_ids: Sequence[str | None], readable: Sequence[bool], log_p: Float[np.ndarray, "b nodes"] | None
) -> list[dict[str, Any]]:
    """Rows of `DISTRIBUTIONS` for all images, given log p of every node for the readable ones."""
    rows, waiting = [], iter(() if log_p is None else log_p)
    for product_id, is_readable in zip(product_ids, readable, strict=True):
        assert product_id is not None, "the source was opened with product ids"
        row: dict[str, Any] = {"product_id": product_id, "node": None, "log_p": None}
        if is_readable:
            of_image = next(waiting)
            node = np.flatnonzero(of_image >= MIN_LOG_P).astype(np.int32)
            row |= {"node": node, "log_p": of_image[node]}
        rows.append(row)
    return rows


def write_products(parts: Sequence[Path], output: ProductOutput, work: Path) -> Counter[str]:
    """Pool the images of ``parts`` (files of `DISTRIBUTIONS`) by product; return the number of products by status.

    Args:
        parts: in the order of the images.
        output: its file is written atomically.
        work: folder for the database.
    """
    statuses: Counter[str] = Counter()
    database = work / "products.sqlite"
    database.unlink(missing_ok=True)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        _fill(connection, parts)
        rows = (_row(product_id, images, output) for product_id, images in _by_product(connection))
        write_rows(output.path, _counted(rows, statuses), PREDICTED_PRODUCTS)
    database.unlink()
    return statuses


def _fill(connection: sqlite3.Connection, parts: Sequence[Path]) -> None:
    connection.execute("PRAGMA journal_mode=OFF")  # no recovery needed: made anew after a kill
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute(
        "CREATE TABLE image (product TEXT, number INTEGER, node BLOB, log_p BLOB, PRIMARY KEY (product, number)) "
        "WITHOUT ROWID"
    )
    connection.execute("BEGIN")
    number = 0
    for part in track(parts, "predict products", len(parts), "parts"):
        with open_parquet(part) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                rows = zip(batch["product_id"].to_pylist(), batch["node"], batch["log_p"], strict=True)
                for product_id, node, log_p in rows:
                    values = (product_id, number, _bytes(node), _bytes(log_p))
                    connection.execute("INSERT INTO image VALUES (?, ?, ?, ?)", values)
                    number += 1
    connection.execute("COMMIT")


def _bytes(numbers: pa.ListScalar) -> bytes:
    """The bytes of a row's numbers: Python objects of a batch would take ten times the memory."""
    return b"" if numbers.values is None else numbers.values.to_numpy().tobytes()


def _by_product(connection: sqlite3.Connection) -> Iterator[tuple[str, Iterable[tuple[bytes, bytes]]]]:
    found = connection.execute("SELECT product, node, log_p FROM image ORDER BY product, number")
    for product_id, images in groupby(found, key=lambda row: row[0]):
        yield product_id, (row[1:] for row in images)


def _row(product_id: str, images: Iterable[tuple[bytes, bytes]], output: ProductOutput) -> dict[str, Any]:
    pool, unreadable = output.pool(), 0
    for node, log_p in images:
        if not node:
            unreadable += 1
            continue
        whole = np.full((1, pool.nodes), -np.inf, dtype=np.float32)
        whole[0, np.frombuffer(node, np.int32)] = np.frombuffer(log_p, np.float32)
        pool.add(whole)
    row = {"product_id": product_id, "path": (), "images": pool.images, "unreadable_images": unreadable}
    if not pool.images:
        return {**row, "status": "unreadable"}
    found = output.predict_product(pool)
    best = found.predictions[0]
    row |= {"disagree": found.disagree, "band": best.band}
    if not best.path:
        return {**row, "status": "not_sure"}
    answer = {"label": SEPARATOR.join(best.path), "probability": best.probability, "level_probabilities": best.levels}
    return {**row, **answer, "path": best.path, "status": "ok", "category_id": best.category_id}


def _counted(rows: Iterable[dict[str, Any]], statuses: Counter[str]) -> Iterator[dict[str, object]]:
    for row in rows:
        statuses[row["status"]] += 1
        yield row
