"""Stage ``split``: assigns images to train, val and test without leaks, and discards others, each with a reason.

reports/split/metrics.json counts the discarded images by reason; reports/split/discarded.parquet lists them.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from atlas_model.core.errors import InputError
from atlas_model.core.files import replacing, replacing_folder, write_text
from atlas_model.core.params import Params, SplitParams
from atlas_model.core.progress import say
from atlas_model.data.csv_cells import for_cell
from atlas_model.data.images import Preprocessing
from atlas_model.data.reviews import read_reviews
from atlas_model.data.schemas import DISCARDED, IMAGES, PRODUCTS, REFS, SCORES, read_table, write_rows
from atlas_model.split.assign import ImageRef, ImageScore, SplitProduct, split_refs
from atlas_model.split.files import read_columns, write_split_files
from atlas_model.split.leaks import count_near_duplicate_leaks, count_product_leaks
from atlas_model.split.names import SPLITS
from atlas_model.split.reasons import REMEDIES, kind_of
from atlas_model.split.report import (
    categories_csv,
    category_counts,
    count_outcomes,
    missing_categories,
    share_deviations,
)
from atlas_model.split.reviews import apply_reviews
from atlas_model.taxonomy.changes import NO_CHANGES, TaxonomyChanges, load_changes
from atlas_model.taxonomy.files import load_taxonomy
from atlas_model.taxonomy.names import clean_name, look_alikes
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath, Taxonomy
from flows import paths
from flows.stages.entry import main, write_metrics
from flows.stages.split_quality import report_quality

UNDECIDED = paths.REPORTS / "split/undecided.csv"  # products whose category was split
CATEGORIES = paths.PLOTS / "split/categories.csv"
MAX_LISTED = 20  # names in a warning; reports/split/metrics.json has all
NOUN = {"train": "training", "val": "validation", "test": "test"}
CONSEQUENCES = {  # of a category without images in a split, with the remedy
    "train": "The model cannot learn them. Products that share images stay in one split, so images that many products "
    "share may keep a whole category in another split. Else use more products, other shares or another split.seed",
    "val": "They do not count when the best epoch is selected. Use more products or another split.seed",
    "test": "The test metrics do not cover them. Use more products or another split.seed",
}


def run(params: Params) -> None:
    """Assign every image to a split or a reason, write the splits, and report on the written files."""
    options = params.split
    # A missing file stops DVC, whose dependency it is, and `atlas check`.
    changed = options.taxonomy_changes.exists()
    changes = load_changes(options.taxonomy_changes, _listed(options, NO_CHANGES)) if changed else NO_CHANGES
    products, titles = _read_products(changes)
    refs = _read_refs()
    scores = _read_scores()
    _check_complete(refs, products, scores)
    listed = _listed(options, changes)
    reviewed = apply_reviews(read_reviews(paths.REVIEWS), products, scores, allowed=listed, today=changes.now)
    products, scores = reviewed.products, _without_small(reviewed.scores, options.min_side)
    for line in reviewed.messages:
        say(line)
    taxonomy = listed or _met(products.values(), changes)
    alike = _look_alikes(taxonomy, products.values())
    outcomes = split_refs(
        refs,
        products,
        scores,
        allowed=taxonomy,
        val_share=options.val_share,
        test_share=options.test_share,
        min_products=options.min_products,
        rare=options.rare,
        near_duplicate_distance=options.near_duplicate_distance,
        respect_hint=options.respect_hint,
        seed=options.seed,
        max_products_per_image=options.max_products_per_image,
    )
    if options.labels == "met":  # the model must not predict a category without training images
        kept = {products[ref.product_id].category for ref, found in zip(refs, outcomes, strict=True) if found in SPLITS}
        taxonomy = taxonomy.restricted_to(kept or taxonomy)
    counts = count_outcomes(outcomes, [ref.product_id for ref in refs])
    _check_none_empty(counts)
    _warn_of_losses(counts, options)
    missing = missing_categories(
        taxonomy.labels,
        [(products[ref.product_id].category, ref.product_id, found) for ref, found in zip(refs, outcomes, strict=True)],
        only_trained=options.min_products if options.rare == "train" else 0,
    )
    _warn_of_missing(missing)
    _warn_of_one_category({products[r.product_id].category for r, o in zip(refs, outcomes, strict=True) if o in SPLITS})

    with replacing_folder(paths.SPLITS) as folder:
        write_split_files(
            folder,
            paths.SHARDS,
            [
                {
                    "image_id": ref.image_id,
                    "product_id": ref.product_id,
                    "title": titles[ref.product_id],
                    "taxonomy": list(products[ref.product_id].category),
                    "label": SEPARATOR.join(products[ref.product_id].category),
                    "split": outcome,
                }
                for ref, outcome in zip(refs, outcomes, strict=True)
                if outcome in SPLITS
            ],
            Preprocessing(options.image_size, options.image_mode, options.resize, options.interpolation),
        )
        taxonomy.save(folder / paths.TAXONOMY.name)
    _write_undecided(products.values(), titles, changes)
    write_rows(paths.DISCARDED, _discarded(refs, outcomes), DISCARDED)
    quality = report_quality(refs, products, scores, outcomes, options)
    found = {"categories_without": missing, "look_alikes": alike, "quality": quality} | reviewed.report
    _report(counts | found, scores, options)


def _read_products(changes: TaxonomyChanges) -> tuple[dict[str, SplitProduct], dict[str, str]]:
    """The products by id, with the categories of today, and their titles."""
    columns = ["product_id", "title", "taxonomy", "split_hint"]
    table = read_table(paths.PRODUCTS, PRODUCTS, "crawl", columns).to_pydict()
    paths_of = (tuple(map(clean_name, path)) for path in table["taxonomy"])
    products = map(SplitProduct, table["product_id"], paths_of, table["split_hint"])
    by_id = {product.product_id: _of_today(product, changes) for product in products}
    return by_id, dict(zip(table["product_id"], table["title"], strict=True))


def _of_today(product: SplitProduct, changes: TaxonomyChanges) -> SplitProduct:
    """The product with the category of today; with a fault if its category was split or removed."""
    today = changes.now(product.category) if product.category else (product.category,)
    if len(today) == 1:
        return replace(product, category=today[0])
    return replace(product, fault="category_split" if today else "category_removed")


def _write_undecided(products: Iterable[SplitProduct], titles: Mapping[str, str], changes: TaxonomyChanges) -> None:
    """List the products whose category was split, with its successors: someone has to decide."""
    undecided = [product for product in products if product.fault == "category_split"]
    with replacing(UNDECIDED) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["product_id", "title", "category", "successors"])
        for product in undecided:
            successors = " | ".join(map(SEPARATOR.join, changes.now(product.category)))
            cells = [product.product_id, titles[product.product_id], SEPARATOR.join(product.category), successors]
            writer.writerow(map(for_cell, cells))
    if undecided:
        say(
            f"warning: split: {len(undecided)} products have a category that split.taxonomy_changes splits. Their "
            f"images are not used until someone decides: {UNDECIDED} lists them with the categories to choose from"
        )


def _read_refs() -> list[ImageRef]:
    columns = ["product_id", "position", "image_id", "status"]
    table = read_table(paths.REFS, REFS, "fetch", columns).sort_by(
        [("product_id", "ascending"), ("position", "ascending")]
    )
    return list(map(ImageRef, *table.select(["product_id", "image_id", "status"]).to_pydict().values()))


def _read_scores() -> dict[str, ImageScore]:
    """The scores by image_id."""
    table = read_table(paths.SCORES, SCORES, "zoom", ["image_id", "keep", "reason", "phash"]).to_pydict()
    image_ids = table.pop("image_id")
    return dict(zip(image_ids, map(ImageScore, *table.values()), strict=True))


def _without_small(scores: dict[str, ImageScore], min_side: int) -> dict[str, ImageScore]:
    """``scores``, in which an image whose shorter side is below ``min_side`` (px) has ``keep=False``."""
    sizes = read_table(paths.SHARDS, IMAGES, "fetch", ["image_id", "width", "height"])
    for image_id, width, height in zip(*sizes.to_pydict().values(), strict=True):
        if min(width, height) < min_side and image_id in scores and scores[image_id].keep:
            scores[image_id] = replace(scores[image_id], keep=False, reason="too_small")
    return scores


def _check_complete(
    refs: Sequence[ImageRef], products: Mapping[str, SplitProduct], scores: Mapping[str, ImageScore]
) -> None:
    lost = {ref.product_id for ref in refs} - products.keys()
    if lost:
        raise InputError(f"{paths.REFS}: {len(lost)} products are not in {paths.PRODUCTS}. Run: dvc repro fetch")
    unscored = {ref.image_id for ref in refs if ref.image_id is not None} - scores.keys()
    if unscored:
        raise InputError(f"{paths.SCORES}: {len(unscored)} images of {paths.REFS} are missing. Run: dvc repro zoom")


def _listed(options: SplitParams, changes: TaxonomyChanges) -> Taxonomy | None:
    """The taxonomy of split.taxonomy, as it is after the changes; None if the labels make the taxonomy."""
    if options.labels != "listed":
        return None
    listed = load_taxonomy(options.taxonomy)
    return changes.apply(listed) if changes else listed


def _met(products: Iterable[SplitProduct], changes: TaxonomyChanges) -> Taxonomy:
    """The category paths of all products, as a taxonomy."""
    met = {product.category for product in products if product.category and not product.fault}
    if not met:
        raise InputError(
            f"{paths.PRODUCTS}: expected products with categories, got none, so nothing can be trained. To predict the "
            "categories of these images with a trained model: atlas predict --input data/images/shards --output "
            "answers.parquet"
        )
    # In the order of their first names, so that a renaming does not change it.
    ordered: list[CategoryPath] = sorted(met, key=changes.former)
    return changes.apply(Taxonomy(ordered))


def _look_alikes(taxonomy: Taxonomy, products: Iterable[SplitProduct]) -> list[tuple[str, ...]]:
    """Groups of category names, of the taxonomy and the products, that look alike; warns, because they differ."""
    found = look_alikes({*taxonomy.names, *(name for product in products for name in product.category)})
    if found:
        listed = "; ".join(" and ".join(map(repr, group)) for group in found[:MAX_LISTED])
        more = f"; and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
        say(
            f"warning: split: these names of categories look alike but differ in their characters, so they are "
            f"different categories: {listed}{more}. Write names that mean the same in the same way"
        )
    return found


def _remedy(counts: Mapping[str, Any]) -> str:
    """The remedy for the most frequent reason; for the assignment itself, if more images were kept than discarded."""
    kinds: Counter[str] = Counter()
    for reason, count in counts["dropped"].items():
        kinds[kind_of(reason)] += count
    kind, count = max(kinds.items(), key=lambda item: item[1], default=("", 0))
    if count < sum(counts["images_per_split"].values()):
        return "Use more products, other shares or another split.seed"
    return f"The largest reason is {kind} ({count}): {REMEDIES[kind]}"


def _discarded(refs: Sequence[ImageRef], outcomes: Sequence[str]) -> Iterable[dict[str, object]]:
    """A row for each image of each product that is in no split, in the order of ``refs``."""
    for ref, outcome in zip(refs, outcomes, strict=True):
        if outcome not in SPLITS:
            yield {"product_id": ref.product_id, "image_id": ref.image_id, "reason": outcome}


def _check_none_empty(counts: Mapping[str, Any]) -> None:
    empty = [split for split in SPLITS if not counts["images_per_split"][split]]
    if empty:
        dropped = ", ".join(f"{reason} {count}" for reason, count in counts["dropped"].items()) or "none"
        kept = ", ".join(f"{split} {count}" for split, count in counts["images_per_split"].items())
        raise InputError(
            f"split: expected images in every split, got none in {' and '.join(empty)} ({kept}). "
            f"Discarded of {counts['refs']}: {dropped}. {_remedy(counts)}"
        )


def _warn_of_losses(counts: Mapping[str, Any], options: SplitParams) -> None:
    """Warn if most images were discarded, and about shared images, which only a person can judge."""
    shared = counts["dropped"].get("shared_image", 0)
    if shared:
        say(f"warning: split: {shared} images were discarded as shared_image: {REMEDIES['shared_image']}")
    lost = sum(counts["dropped"].values())
    if lost * 2 > counts["refs"]:
        say(f"warning: split: {lost} of {counts['refs']} images were discarded. {_remedy(counts)}")


def _warn_of_missing(missing: Mapping[str, Sequence[str]]) -> None:
    """Warn about categories that have no images in a split."""
    for split, labels in missing.items():
        if labels:
            listed = ", ".join(map(repr, labels[:MAX_LISTED]))
            more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
            say(
                f"warning: split: {len(labels)} {'category' if len(labels) == 1 else 'categories'} without "
                f"{NOUN[split]} images: {listed}{more}. {CONSEQUENCES[split]}"
            )


def _warn_of_one_category(categories: set[CategoryPath]) -> None:
    if len(categories) == 1:
        (only,) = map(SEPARATOR.join, categories)
        say(
            f"warning: split: all images have one category, {only}: there is nothing to choose, so every metric is 1 "
            "whatever the model learns. Use products of other categories"
        )


def _report(counts: dict[str, Any], scores: Mapping[str, ImageScore], options: SplitParams) -> None:
    """Write the metrics and the plot, computed from the written files."""
    written = read_columns(paths.SPLITS, SPLITS, ["image_id", "product_id", "label", "split"]).to_pydict()
    hashes = np.array([scores[image_id].phash for image_id in written["image_id"]], dtype=np.uint64)
    categories = category_counts(written["label"], written["split"])
    asked = {"val": options.val_share, "test": options.test_share}
    asked["train"] = 1 - sum(asked.values())
    deviations = share_deviations(categories, asked)
    write_text(CATEGORIES, categories_csv(categories))
    write_metrics(
        "split",
        {"images": sum(counts["images_per_split"].values()), "dropped": sum(counts["dropped"].values())},
        counts
        | {
            "share_deviation": {"max": max(deviations.values()), "per_category": deviations},
            "leaks": {
                "product": count_product_leaks(written["product_id"], written["split"]),
                "near_duplicate": count_near_duplicate_leaks(hashes, written["split"], options.near_duplicate_distance),
            },
        },
    )


if __name__ == "__main__":
    main(run)
