"""The stage `evaluate`'s report on outliers and likely label errors: reports/evaluate/quality.parquet."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from atlas_model.core.device import single_threaded_torch
from atlas_model.core.param_sections.quality import LabelQualityParams
from atlas_model.core.progress import say
from atlas_model.data.dataset import Split
from atlas_model.data.schemas import QUALITY, write_table
from atlas_model.evaluate.evaluation import Evaluation
from atlas_model.quality.issues import join_issues, list_issue
from atlas_model.quality.label_errors import find_label_errors
from atlas_model.quality.outliers import outlier_scores
from atlas_model.taxonomy.tree import Taxonomy

Embed = Callable[[Split, Int[np.ndarray, "n"]], Float[np.ndarray, "n d"]]

REMARKABLE_SHARE = 0.1  # of labels that are likely wrong: the figures of the model are then unreliable, too


def report_label_quality(
    file: Path,
    splits: Mapping[str, Split],
    evaluations: Mapping[str, Evaluation],
    taxonomy: Taxonomy,
    thresholds: LabelQualityParams,
    *,
    embed: Embed,
    seed: int,
) -> dict[str, Any]:
    """Write the table for all images of all splits; return the counts.

    Args:
        file: where to write it.
        splits: by name.
        evaluations: of the same splits, with the embeddings of the images that were searched.
        taxonomy: of the labels.
        thresholds: the section ``evaluate.quality``.
        embed: embeds rows of a split.
        seed: of the folds.

    Returns:
        For ``outlier`` and ``label_error`` the number of listed images per split. ``labels_checked`` is the number of
        images whose label was checked, ``labels_unchecked`` of those in categories with a single product;
        ``estimated_label_errors`` the number that confident learning estimates; ``accuracy`` that of the out-of-fold
        classifier. Empty if neither issue is searched.
    """
    if thresholds.outlier is None and thresholds.label_error is None:
        write_table(file, QUALITY.empty_table(), QUALITY)
        return {}
    points = np.concatenate([_embeddings(split, evaluations[name], embed) for name, split in splits.items()])
    category = np.concatenate([split.paths for split in splits.values()])
    image_ids = [image_id for split in splits.values() for image_id in split.image_ids]
    product_ids = [product_id for split in splits.values() for product_id in split.product_ids]
    split_of = {image_id: name for name, split in splits.items() for image_id in split.image_ids}
    counts: dict[str, Any] = {}
    with single_threaded_torch():
        tables = [list_issue("outlier", image_ids, outlier_scores(points, category), thresholds.outlier)]
        if thresholds.label_error is not None:
            errors = find_label_errors(points, category, product_ids, seed=seed)
            found = [image_ids[row] for row in errors.row]
            suggested = [taxonomy.labels[path] for path in errors.suggested]
            tables.append(list_issue("label_error", found, errors.score, thresholds.label_error, suggested))
            counts = {
                "labels_checked": errors.checked,
                "labels_unchecked": len(image_ids) - errors.checked,
                "estimated_label_errors": len(errors.row),
                "accuracy": errors.accuracy,
            }
            if len(errors.row) > REMARKABLE_SHARE * errors.checked:
                say(
                    f"warning: evaluate: {len(errors.row)} of {errors.checked} labels are likely wrong, so the metrics "
                    "are unreliable, too. reports/evaluate/quality.parquet lists them as label_error, the most likely "
                    "first. Correct them: atlas review"
                )
    table = join_issues(tables)
    write_table(file, table, QUALITY)
    listed = Counter(
        (issue, split_of[image_id])
        for issue, image_id in zip(table["issue"].to_pylist(), table["image_id"].to_pylist(), strict=True)
    )
    searched = [issue for issue, threshold in thresholds.model_dump().items() if threshold is not None]
    return counts | {issue: {name: listed[issue, name] for name in splits} for issue in searched}


def _embeddings(split: Split, evaluation: Evaluation, embed: Embed) -> Float[np.ndarray, "n d"]:
    """The embeddings of all images of a split: those of the evaluated rows, and the others."""
    assert evaluation.embeddings is not None, "of a sequence model"
    others = np.setdiff1d(np.arange(len(split)), evaluation.rows)
    points = np.empty((len(split), evaluation.embeddings.shape[1]), dtype=np.float32)
    points[evaluation.rows] = evaluation.embeddings
    if len(others):
        points[others] = embed(split, others)
    return points
