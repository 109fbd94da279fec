"""The stage `split`'s report on the quality of the images: reports/split/quality.parquet. Nothing is discarded."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from atlas_model.core.params import SplitParams
from atlas_model.core.progress import say
from atlas_model.data.schemas import IMAGES, QUALITY, SCORES, read_table, write_table
from atlas_model.quality.duplicates import ShownImage, find_duplicates
from atlas_model.quality.issues import IMAGE_ISSUES, count_issues, join_issues, list_issue, score_images
from atlas_model.quality.measures import ImageMeasures
from atlas_model.split.assign import ImageRef, ImageScore, SplitProduct
from atlas_model.split.names import SPLITS
from flows import paths

TABLE = paths.REPORTS / "split/quality.parquet"
MEASURES = tuple(ImageMeasures.__annotations__)
WARNINGS = {  # issue -> what is wrong with the images, and what to do
    "dark": "are dark",
    "light": "are white, or nearly so",
    "blurred": "are blurred. If shops have larger versions, crawl those",
    "blank": "show almost nothing. They may be placeholders",
    "tiny": "are much smaller than split.image_size, so they are enlarged. If shops have larger versions, crawl those",
    "odd_aspect": "are very wide or very tall. split.resize: pad keeps their proportions",
    "duplicate": "are shown by other products, too. If the labels differ, correct them",
}


def report_quality(
    refs: Sequence[ImageRef],
    products: Mapping[str, SplitProduct],
    scores: Mapping[str, ImageScore],
    outcomes: Sequence[str],
    options: SplitParams,
) -> dict[str, dict[str, int]]:
    """Write the table, and warn of issues that many images in the splits have.

    Args:
        refs: as in `split_refs`, as are the next two.
        products: by product_id.
        scores: by image_id.
        outcomes: of ``refs``: a split, or the reason why the image is discarded.
        options: the section ``split``.

    Returns:
        For each issue the number of images that have it: ``kept``, in a split, and ``discarded``.
    """
    thresholds = options.quality.model_dump(exclude={"warn_share"})
    tables = _image_issues(options.image_size, thresholds)
    if thresholds["duplicate"] is not None:
        shown = _shown_images(refs, products, scores)
        image_ids, found, others = find_duplicates(shown, options.near_duplicate_distance)
        tables.append(list_issue("duplicate", image_ids, found, thresholds["duplicate"], others))
    table = join_issues(tables)
    write_table(TABLE, table, QUALITY)
    kept = {str(ref.image_id) for ref, outcome in zip(refs, outcomes, strict=True) if outcome in SPLITS}
    counts = count_issues(table, kept)
    for issue, count in counts.items():
        share = count["kept"] / len(kept)
        if share > options.quality.warn_share:
            say(
                f"warning: split: {count['kept']} of {len(kept)} images ({share:.0%}) {WARNINGS[issue]}. They are "
                f"kept. {TABLE} lists them as {issue}; split.quality.{issue} sets the threshold"
            )
    return counts


def _image_issues(input_side: int, thresholds: Mapping[str, float | None]) -> list[pa.Table]:
    """Tables of `schemas.QUALITY`, one for each of `IMAGE_ISSUES`, for all images."""
    measured = read_table(paths.SCORES, SCORES, "zoom", ["image_id", *MEASURES])
    sizes = read_table(paths.SHARDS, IMAGES, "fetch", ["image_id", "width", "height"])
    joined = measured.join(sizes, "image_id", join_type="inner").sort_by("image_id")
    image_ids = joined["image_id"].to_pylist()
    measures = {name: joined[name].to_numpy().astype(np.float64) for name in MEASURES}  # null becomes NaN
    width, height = joined["width"].to_numpy(), joined["height"].to_numpy()
    found = score_images(measures, width, height, input_side=input_side)
    return [list_issue(issue, image_ids, found[issue], thresholds[issue]) for issue in IMAGE_ISSUES]


def _shown_images(
    refs: Sequence[ImageRef], products: Mapping[str, SplitProduct], scores: Mapping[str, ImageScore]
) -> list[ShownImage]:
    """The images of products, without those that the filter discards: close-ups of one fabric look alike."""
    shown_by: defaultdict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for ref in refs:
        if ref.image_id is not None and scores[ref.image_id].keep:
            shown_by[ref.image_id][ref.product_id] = products[ref.product_id].category
    hashes = {image_id: scores[image_id].phash for image_id in shown_by}
    return [ShownImage(image_id, phash, shown_by[image_id]) for image_id, phash in hashes.items() if phash is not None]
