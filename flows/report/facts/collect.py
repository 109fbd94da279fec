"""Collects everything that the report and the cards state, from the files that the stages wrote."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atlas_model.core.errors import InputError, MissingError
from atlas_model.data.schemas import DISCARDED as DISCARDED_SCHEMA
from atlas_model.data.schemas import PRODUCTS as PRODUCTS_SCHEMA
from atlas_model.data.schemas import REFS as REFS_SCHEMA
from atlas_model.data.schemas import SCORES as SCORES_SCHEMA
from atlas_model.data.schemas import read_table
from atlas_model.split.files import read_columns
from atlas_model.split.names import SPLITS as SPLIT_NAMES
from atlas_model.taxonomy.tree import CategoryPath
from flows import paths
from flows.report.facts.accepted import hash_of_weights, read_acceptance
from flows.report.facts.categories import TaxonomyReport, collect_categories
from flows.report.facts.caveats import report_caveats
from flows.report.facts.confusions import Confusion, confused_with, most_confused
from flows.report.facts.discards import Strip, collect_discards
from flows.report.facts.figures import Metrics, collect_metrics
from flows.report.facts.predictions import RiskPoint, fingerprint, read_predictions, risk_coverage
from flows.report.facts.quality import Issue, collect_quality
from flows.report.facts.sources import Sources, collect_sources

CURVES = paths.PLOTS / "evaluate"
QUALITY = (paths.REPORTS / "split/quality.parquet", paths.EVALUATION / "quality.parquet")


@dataclass(frozen=True)
class Model:
    """The model of the run."""

    description: Mapping[str, Any]  # model.json
    weights: str  # SHA-256, hex
    weights_bytes: int
    trained: Mapping[str, Any]  # reports/train/metrics.json

    @property
    def encoder(self) -> str:
        """The name of the encoder."""
        return str(self.description["architecture"]["encoder"])

    @property
    def reads_titles(self) -> bool:
        """Whether titles are a second input."""
        return str(self.description["architecture"].get("title", "none")) != "none"


@dataclass(frozen=True)
class Facts:
    """What the report and the cards state."""

    model: Model
    metrics: Metrics
    evaluated: Mapping[str, Any]  # reports/evaluate/metrics.json
    taxonomy: TaxonomyReport
    confusions: tuple[Confusion, ...]
    confused_pairs: int  # all of them
    confused_with: Mapping[
        str, tuple[str, int]
    ]  # category -> the one that it is most often predicted as, and how often
    errors: int  # wrong predictions on test
    reliability: Mapping[str, Sequence[Mapping[str, float]]]  # model -> rows of the curve
    risk: tuple[RiskPoint, ...]
    discards: tuple[Strip, ...]
    sources: Sources
    quality: tuple[Issue, ...] | None  # None: no stage looked for any
    caveats: tuple[str, ...]
    split: Mapping[str, Any]  # reports/split/metrics.json
    obey_robots: bool  # robots.txt of the hosts of images was obeyed
    titles: Mapping[str, str]  # image id -> title, of the images that the report names
    labels: Mapping[str, str]  # image id -> category, of those in a split

    def images(self) -> Iterable[str]:
        """The ids of the images that the report shows, the most important first."""
        rounds: list[list[str]] = []
        for pair in self.confusions:
            shown = ([each.image_id for each in pair.wrong], pair.of_actual, pair.of_predicted)
            rounds += [[image_id for group in shown for image_id in group[:2]]]
        rounds += [[image_id for image_id, _ in (*strip.doubtful, *strip.clear)] for strip in self.discards]
        for issue in self.quality or ():
            others = [each.detail for each in issue.findings if each.detail] if issue.key == "duplicate" else []
            rounds += [[each.image_id for each in issue.findings], others]
        for pair in self.confusions:
            shown = ([each.image_id for each in pair.wrong], pair.of_actual, pair.of_predicted)
            rounds += [[image_id for group in shown for image_id in group[2:]]]
        return [image_id for one in rounds for image_id in one]


def collect(*, source: str, snapshot: str, obey_robots: bool, zoom_enabled: bool, pairs: int, images: int) -> Facts:
    """Read the outputs of all stages in the current folder.

    Args:
        source: crawl.source.
        snapshot: crawl.snapshot.
        obey_robots: fetch.obey_robots.
        zoom_enabled: zoom.enabled.
        pairs: maximum number of pairs of confused categories.
        images: maximum number of images of each kind in a pair or strip.

    Raises:
        MissingError: a stage has not run.
        InputError: a file is damaged.
    """
    evaluated, split = read_json(paths.EVALUATION / "metrics.json", "evaluate"), _stage_metrics("split")
    predictions = read_predictions(paths.EVALUATION / "predictions.parquet")
    weights = hash_of_weights(paths.CATEGORIZER)
    acceptance = read_acceptance(paths.CHAMPIONS, weights)
    metrics = collect_metrics(evaluated, acceptance, fingerprint(predictions))
    in_splits = read_columns(paths.SPLITS, SPLIT_NAMES, ["image_id", "product_id", "label", "split"]).to_pydict()
    taxonomy = collect_categories(
        _taxonomy_paths(), zip(in_splits["label"], in_splits["split"], strict=True), predictions
    )
    confusions, confused_pairs = most_confused(
        predictions, _train_images(in_splits, images), pairs=pairs, images=images
    )
    discarded = read_table(paths.DISCARDED, DISCARDED_SCHEMA, "split").to_pydict()
    strips = collect_discards(
        zip(discarded["image_id"], discarded["reason"], strict=True), _p_zoomed(), most=2 * images
    )
    products = read_table(paths.PRODUCTS, PRODUCTS_SCHEMA, "crawl", ["product_id", "site", "title"])
    refs = read_table(paths.REFS, REFS_SCHEMA, "fetch", ["product_id", "image_id"])
    sources = collect_sources(
        kind=source,
        snapshot=snapshot,
        crawled=_stage_metrics("crawl"),
        fetched=_stage_metrics("fetch"),
        reviews=split.get("reviews"),
        products=list(zip(products["product_id"].to_pylist(), products["site"].to_pylist(), strict=True)),
        listed=refs["product_id"].to_pylist(),
        discarded=zip(discarded["product_id"], discarded["reason"], strict=True),
        splits=zip(in_splits["product_id"], in_splits["split"], strict=True),
    )
    quality = collect_quality(QUALITY, most=2 * images)
    facts = Facts(
        model=Model(
            read_json(paths.CATEGORIZER / "model.json", "train"),
            weights,
            (paths.CATEGORIZER / "model.safetensors").stat().st_size,
            _stage_metrics("train"),
        ),
        metrics=metrics,
        evaluated=evaluated,
        taxonomy=taxonomy,
        confusions=tuple(confusions),
        confused_pairs=confused_pairs,
        confused_with=confused_with(predictions),
        errors=sum(not each.right for each in predictions),
        reliability={
            name: _read_curve(CURVES / f"reliability_{key}.csv")
            for key, name in (("categorizer", "Atlas"), ("baseline", "plain classifier"))
        },
        risk=tuple(risk_coverage(predictions)),
        discards=tuple(strips),
        sources=sources,
        quality=None if quality is None else tuple(quality),
        caveats=tuple(
            report_caveats(
                metrics,
                taxonomy,
                sources,
                tested=Counter(each.actual for each in predictions),
                split=split,
                evaluated=evaluated,
                zoom_enabled=zoom_enabled,
            )
        ),
        split=split,
        obey_robots=obey_robots,
        titles={},
        labels={},
    )
    shown = set(facts.images())
    title_of_product = _titles(products, refs, shown)
    labels = {
        image_id: label
        for image_id, label in zip(in_splits["image_id"], in_splits["label"], strict=True)
        if image_id in shown
    }
    return Facts(**{**vars(facts), "titles": title_of_product, "labels": labels})


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """An object in a JSON file.

    Args:
        path: of the file.
        made_by: the stage that writes it, for the error message.

    Raises:
        MissingError: there is no such file.
        InputError: it is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path}: No such file. Run the stage that writes it: dvc repro {made_by}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected JSON, got {error}. Run: dvc repro {made_by}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(found).__name__}. Run: dvc repro {made_by}")
    return found


def _stage_metrics(stage: str) -> dict[str, Any]:
    return read_json(paths.REPORTS / stage / "metrics.json", stage)


def _taxonomy_paths() -> list[CategoryPath]:
    return [tuple(path) for path in read_json(paths.TAXONOMY, "split")["paths"]]


def _train_images(in_splits: Mapping[str, list[str]], most: int) -> dict[str, list[str]]:
    """Some image ids of the training split by label."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for image_id, label, split in zip(in_splits["image_id"], in_splits["label"], in_splits["split"], strict=True):
        if split == "train" and len(found[label]) < most:
            found[label].append(image_id)
    return found


def _p_zoomed() -> dict[str, float | None]:
    scores = read_table(paths.SCORES, SCORES_SCHEMA, "zoom", ["image_id", "p_zoomed", "reason"])
    zoomed = scores.filter(pc.equal(scores["reason"], "zoomed"))
    return dict(zip(zoomed["image_id"].to_pylist(), zoomed["p_zoomed"].to_pylist(), strict=True))


def _read_curve(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(handle)]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a table of numbers, got {error}. Run: dvc repro evaluate") from error


def _titles(products: Any, refs: Any, shown: set[str]) -> dict[str, str]:
    """The title of the first product of each image of ``shown``."""
    of_shown = refs.filter(pc.is_in(refs["image_id"], value_set=pa.array(sorted(shown), pa.string())))
    pairs = list(zip(of_shown["image_id"].to_pylist(), of_shown["product_id"].to_pylist(), strict=True))
    wanted = pa.array(sorted({product for _, product in pairs}), pa.string())
    named = products.filter(pc.is_in(products["product_id"], value_set=wanted))
    title_of = dict(zip(named["product_id"].to_pylist(), named["title"].to_pylist(), strict=True))
    found: dict[str, str] = {}
    for image_id, product in pairs:
        found.setdefault(image_id, title_of.get(product, ""))
    return found
