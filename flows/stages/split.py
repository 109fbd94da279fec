"""Stage split: products, pictures and scores to train, val and test, without leaks and with every loss counted."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from atlas_model.errors import InputError
from atlas_model.files import replacing_folder, write_text
from atlas_model.images import Preprocessing
from atlas_model.leaks import count_near_duplicate_leaks, count_product_leaks
from atlas_model.params import Params, SplitParams
from atlas_model.progress import say
from atlas_model.records import PRODUCTS, REFS, SCORES, read_table
from atlas_model.split_files import read_columns, write_split_files
from atlas_model.split_report import categories_csv, category_counts, count_outcomes, share_deviations
from atlas_model.splitting import SPLITS, Product, Ref, Score, split_refs
from atlas_model.taxonomy import SEPARATOR, Taxonomy
from atlas_model.taxonomy_files import load_taxonomy
from flows.stages import paths
from flows.stages.entry import main, write_metrics

CATEGORIES = paths.PLOTS / "split/categories.csv"


def run(params: Params) -> None:
    """Decide on every picture, write those that stay, and report on what was written."""
    options = params.split
    products, titles = _read_products()
    refs = _read_refs()
    scores = _read_scores()
    _check_complete(refs, products, scores)
    taxonomy = _taxonomy(options, products.values())
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
    )
    if options.labels == "met":  # a model must not answer what it was never shown
        kept = {products[ref.product_id].category for ref, found in zip(refs, outcomes, strict=True) if found in SPLITS}
        taxonomy = Taxonomy([path for path in taxonomy.paths if path in kept] or taxonomy.paths)
    counts = count_outcomes(outcomes, [ref.product_id for ref in refs])
    _check_none_empty(counts)
    _warn_of_losses(counts)

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
    _report(counts, scores, options)


def _read_products() -> tuple[dict[str, Product], dict[str, str]]:
    columns = ["product_id", "title", "taxonomy", "split_hint"]
    table = read_table(paths.PRODUCTS, PRODUCTS, "crawl", columns).to_pydict()
    products = map(Product, table["product_id"], map(tuple, table["taxonomy"]), table["split_hint"])
    by_id = {product.product_id: product for product in products}
    return by_id, dict(zip(table["product_id"], table["title"], strict=True))


def _read_refs() -> list[Ref]:
    columns = ["product_id", "position", "image_id", "status"]
    table = read_table(paths.REFS, REFS, "fetch", columns).sort_by(
        [("product_id", "ascending"), ("position", "ascending")]
    )
    return list(map(Ref, *table.select(["product_id", "image_id", "status"]).to_pydict().values()))


def _read_scores() -> dict[str, Score]:
    table = read_table(paths.SCORES, SCORES, "zoom", ["image_id", "keep", "reason", "phash"]).to_pydict()
    image_ids = table.pop("image_id")
    return dict(zip(image_ids, map(Score, *table.values()), strict=True))


def _check_complete(refs: Sequence[Ref], products: Mapping[str, Product], scores: Mapping[str, Score]) -> None:
    lost = {ref.product_id for ref in refs} - products.keys()
    if lost:
        raise InputError(f"{paths.REFS}: {len(lost)} products are not in {paths.PRODUCTS}. Run: dvc repro fetch")
    unscored = {ref.image_id for ref in refs if ref.image_id is not None} - scores.keys()
    if unscored:
        raise InputError(f"{paths.SCORES}: {len(unscored)} pictures of {paths.REFS} are missing. Run: dvc repro zoom")


def _taxonomy(options: SplitParams, products: Iterable[Product]) -> Taxonomy:
    """The listed paths, or all that were met."""
    if options.labels == "listed":
        return load_taxonomy(options.taxonomy)
    return Taxonomy(sorted({product.category for product in products if product.category}))


REMEDIES = {  # why images were left out -> what to do
    "zoomed": "the stage zoom took them for close-ups. zoom.enabled: false keeps every image; zoom.filter and "
    "zoom.threshold say what counts as a close-up",
    "unreadable": "their bytes cannot be decoded. Fetch them again, or replace them",
    "not_in_taxonomy": "their categories are not in split.taxonomy. Add them there, or say split.labels: met",
    "label_conflict": "products of several categories show them. Give each image one category",
    "duplicate": "other products show the same image. More different images would help",
    "rare_category": "their categories have fewer than split.min_products products. Lower it, or say split.rare: train",
    "near_duplicate": "they look like images of another split. Lower split.near_duplicate_distance",
    "not_fetched": "they could not be fetched. metrics/fetch.json counts the reasons; dvc repro --single-item --force "
    "fetch asks for them again",
}


def _remedy(counts: Mapping[str, Any]) -> str:
    """What to do about the reason that left out most; about the draw where less was left out than stayed."""
    kinds: Counter[str] = Counter()
    for reason, count in counts["dropped"].items():
        kind = "near_duplicate" if reason.startswith("near_duplicate") else reason
        kinds[kind if kind in REMEDIES else "not_fetched"] += count
    kind, count = max(kinds.items(), key=lambda item: item[1], default=("", 0))
    if count < sum(counts["pictures"].values()):
        return "More products, other shares or another split.seed would help"
    return f"The largest reason is {kind} ({count}): {REMEDIES[kind]}"


def _check_none_empty(counts: Mapping[str, Any]) -> None:
    empty = [split for split in SPLITS if not counts["pictures"][split]]
    if empty:
        dropped = ", ".join(f"{reason} {count}" for reason, count in counts["dropped"].items()) or "none"
        kept = ", ".join(f"{split} {count}" for split, count in counts["pictures"].items())
        raise InputError(
            f"split: expected pictures in every split, got none in {' and '.join(empty)} ({kept}). "
            f"Left out of {counts['refs']}: {dropped}. {_remedy(counts)}"
        )


def _warn_of_losses(counts: Mapping[str, Any]) -> None:
    """A split of what little is left succeeds, and means little: say so."""
    lost = sum(counts["dropped"].values())
    if lost * 2 > counts["refs"]:
        say(f"warning: split: {lost} of {counts['refs']} images were left out. {_remedy(counts)}")


def _report(counts: dict[str, Any], scores: Mapping[str, Score], options: SplitParams) -> None:
    """Metrics and plot, from the files as they lie there."""
    written = read_columns(paths.SPLITS, SPLITS, ["image_id", "product_id", "label", "split"]).to_pydict()
    hashes = np.array([scores[image_id].phash for image_id in written["image_id"]], dtype=np.uint64)
    categories = category_counts(written["label"], written["split"])
    asked = {"val": options.val_share, "test": options.test_share}
    asked["train"] = 1 - sum(asked.values())
    deviations = share_deviations(categories, asked)
    write_text(CATEGORIES, categories_csv(categories))
    write_metrics(
        "split",
        {"images": sum(counts["pictures"].values()), "dropped": sum(counts["dropped"].values())},
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
