"""What is reviewed: products, their images, predictions and quality issues, as the stages wrote them.

Only products.parquet, refs.parquet and the image shards must exist. Without the outputs of later stages fewer queues
and orders are available; `Catalogue.notes` says which and why.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas_model.core.errors import InputError
from atlas_model.data.schemas import PREDICTIONS, PRODUCT_PREDICTIONS, PRODUCTS, QUALITY, REFS, SCORES, read_table
from atlas_model.taxonomy.changes import NO_CHANGES, TaxonomyChanges
from atlas_model.taxonomy.names import clean_name
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath, Taxonomy
from flows import paths
from flows.stages.entry import read_metrics

QUALITY_FILES = {  # stage -> file
    "split": paths.REPORTS / "split/quality.parquet",
    "evaluate": paths.EVALUATION / "quality.parquet",
}
LABEL_ERROR = "label_error"
SHOWN = ("site", "page_url", "title", "price", "currency", "brand", "breadcrumb", "taxonomy")


@dataclass(frozen=True)
class Issue:
    """A possible problem of an image, of one of `QUALITY_FILES`."""

    issue: str
    score: float
    detail: str | None


@dataclass(frozen=True)
class Stored:
    """The prediction that the stage evaluate stored for a product."""

    label: str  # "A > B > C"
    probability: float
    split: str


@dataclass(frozen=True)
class ZoomScore:
    """The close-up filter's answer for an image."""

    p_zoomed: float | None
    keep: bool
    reason: str


@dataclass(frozen=True)
class Catalogue:
    """All that is read at the start."""

    taxonomy: Taxonomy
    products: pa.Table  # `SHOWN` columns
    row_of: dict[str, int]  # product_id -> row
    images_of: dict[str, list[str]]  # product_id -> image_ids, by position
    zoom_scores: dict[str, ZoomScore]  # by image_id; empty before the stage zoom
    predictions: dict[str, Stored]  # by product_id; empty before the stage evaluate
    issues: dict[str, list[Issue]]  # by image_id
    threshold: float = 0.5  # of the close-up filter
    notes: list[str] = field(default_factory=list)  # what is missing, and its consequence
    changes: TaxonomyChanges = NO_CHANGES  # between the taxonomy of the labels and that of today

    def has(self, queue: str, subject: str) -> bool:
        """Whether a product with an image, or an image with a score for the queue ``zoom``, is in the catalogue."""
        if queue == "categories":
            return subject in self.images_of
        return subject in self.product_of and subject in self.zoom_scores

    def product_with(self, product_id: str, image_id: str | None) -> str | None:
        """The product, or that with the image; None if the catalogue has neither."""
        return product_id if product_id in self.images_of else self.product_of.get(image_id or "")

    def facts(self, product_id: str) -> dict[str, Any]:
        """The columns `SHOWN` of a product."""
        row: dict[str, Any] = self.products.slice(self.row_of[product_id], 1).to_pylist()[0]
        return row

    def label(self, product_id: str) -> CategoryPath:
        """The category that the crawl found, by its name of today; empty if there is none.

        A category that was split or removed keeps its name.
        """
        found = tuple(map(clean_name, self.products["taxonomy"][self.row_of[product_id]].as_py()))
        today = self.changes.now(found) if found else ()
        return today[0] if len(today) == 1 else found

    def successors(self, product_id: str) -> tuple[CategoryPath, ...]:
        """The categories that a product's category was split into, which someone has to choose from; else none."""
        found = tuple(map(clean_name, self.products["taxonomy"][self.row_of[product_id]].as_py()))
        today = self.changes.now(found) if found else ()
        return today if len(today) > 1 else ()

    @cached_property
    def product_of(self) -> dict[str, str]:
        """The first product with each image."""
        found: dict[str, str] = {}
        for product_id, image_ids in self.images_of.items():
            for image_id in image_ids:
                found.setdefault(image_id, product_id)
        return found

    @cached_property
    def unlabelled(self) -> set[str]:
        """The products whose label is not in the taxonomy, or was split."""
        known: dict[str, bool] = {}
        found = set()
        column = self.products["taxonomy"].to_pylist()
        for product_id, row in self.row_of.items():
            raw = SEPARATOR.join(column[row])
            if raw not in known:
                today = self.changes.now(tuple(map(clean_name, column[row])))
                known[raw] = len(today) == 1 and today[0] in self.taxonomy
            if not known[raw]:
                found.add(product_id)
        return found

    def shown_first(self, product_id: str) -> list[str]:
        """The images of a product, those that the filter keeps first."""
        scores = self.zoom_scores
        return sorted(self.images_of[product_id], key=lambda each: each in scores and not scores[each].keep)


def read_catalogue(listed: Taxonomy | None, changes: TaxonomyChanges = NO_CHANGES) -> Catalogue:
    """Read the outputs of the stages in the current folder.

    Args:
        listed: the taxonomy of split.taxonomy; None: the labels of all products (split.labels: met).
        changes: of split.taxonomy_changes.

    Raises:
        MissingError: the stages crawl and fetch have not run.
        InputError: a file has other columns, or no product has an image.
    """
    notes: list[str] = []
    products = read_table(paths.PRODUCTS, PRODUCTS, "crawl", ["product_id", *SHOWN])
    row_of = {product_id: row for row, product_id in enumerate(products["product_id"].to_pylist())}
    images_of = _images_of(row_of)
    if not images_of:
        raise InputError(f"{paths.REFS}: expected products with images, got none. Run: dvc repro fetch")
    return Catalogue(
        taxonomy=changes.apply(listed) if listed is not None else _met(products, changes),
        products=products.drop(["product_id"]),
        row_of=row_of,
        images_of=images_of,
        zoom_scores=_zoom_scores(notes),
        predictions=_predictions(notes),
        issues=_issues(notes),
        threshold=read_metrics("zoom").get("threshold") or 0.5,
        notes=notes,
        changes=changes,
    )


def _met(products: pa.Table, changes: TaxonomyChanges) -> Taxonomy:
    """The categories of all products by their names of today."""
    labels = {tuple(map(clean_name, path)) for path in map(tuple, products["taxonomy"].to_pylist()) if path}
    met = {today for label in labels for today in changes.now(label)}
    if not met:
        raise InputError(
            f"{paths.PRODUCTS}: no product has a category, so there is no taxonomy to choose from. Name a taxonomy "
            "file in split.taxonomy and set split.labels: listed"
        )
    return Taxonomy(sorted(met))


def _images_of(row_of: dict[str, int]) -> dict[str, list[str]]:
    refs = read_table(paths.REFS, REFS, "fetch", ["product_id", "position", "image_id"])
    refs = refs.filter(pc.is_valid(refs["image_id"])).sort_by([("product_id", "ascending"), ("position", "ascending")])
    found: dict[str, list[str]] = {}
    for product_id, image_id in zip(refs["product_id"].to_pylist(), refs["image_id"].to_pylist(), strict=True):
        if product_id in row_of:
            images = found.setdefault(product_id, [])
            if image_id not in images:
                images.append(image_id)
    return found


def _zoom_scores(notes: list[str]) -> dict[str, ZoomScore]:
    if not paths.SCORES.exists():
        notes.append("There is no queue of close-ups: the stage zoom has not run (dvc repro zoom).")
        return {}
    table = read_table(paths.SCORES, SCORES, "zoom", ["image_id", "p_zoomed", "keep", "reason"]).to_pydict()
    return dict(zip(table.pop("image_id"), map(ZoomScore, *table.values()), strict=True))


def _predictions(notes: list[str]) -> dict[str, Stored]:
    """The stored predictions by product: from all its images, if the file exists, else from the most certain image."""
    of_products, of_images = paths.EVALUATION / "products.parquet", paths.EVALUATION / "predictions.parquet"
    columns = ["product_id", "predicted_category", "log_probability", "split_value"]
    if of_products.exists():
        table = read_table(of_products, PRODUCT_PREDICTIONS, "evaluate", columns)
    elif of_images.exists():
        table = read_table(of_images, PREDICTIONS, "evaluate", columns).sort_by("log_probability")
    else:
        notes.append("No predictions are stored: the stage evaluate has not run (dvc repro evaluate).")
        return {}
    values = table.to_pydict()
    probabilities = np.exp(np.array(values["log_probability"], dtype=np.float64)).clip(0, 1).tolist()
    rows = zip(values["predicted_category"], probabilities, values["split_value"], strict=True)
    return {product_id: Stored(*row) for product_id, row in zip(values["product_id"], rows, strict=True)}


def _issues(notes: list[str]) -> dict[str, list[Issue]]:
    found: dict[str, list[Issue]] = {}
    for stage, path in QUALITY_FILES.items():
        if not path.exists():
            notes.append(f"{_missing(stage)} ({path} does not exist: dvc repro {stage}).")
            continue
        table = read_table(path, QUALITY, stage).to_pydict()
        for image_id, issue, score, detail in zip(*table.values(), strict=True):
            found.setdefault(image_id, []).append(Issue(issue, float(score), detail))
        if stage == "evaluate" and LABEL_ERROR not in table["issue"]:
            notes.append(f"{_missing(stage)} ({path} lists no likely label error).")
    return found


def _missing(stage: str) -> str:
    if stage == "evaluate":
        return "Likely label errors are products whose label differs from a confident prediction"
    return "Issues such as dark, blurred and duplicate images are not shown"
