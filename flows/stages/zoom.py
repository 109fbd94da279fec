"""Stage ``zoom``: computes a close-up score, the decision to keep or discard, and a perceptual hash for each image."""

import time
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow as pa

from atlas_model.core.device import choose_device, single_threaded_torch
from atlas_model.core.errors import InputError
from atlas_model.core.params import Params
from atlas_model.core.progress import Progress
from atlas_model.data.schemas import REFS, SCORES, count_rows, read_table, shard_paths, write_table
from atlas_model.zoom.contact_sheet import write_sheet
from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.scoring import concatenate_scores, discarded_share, measure, score_shard
from crawlers.shop.catalogue import LABELLED_FINGERPRINT, zoomed_urls
from flows.parallel import make_parallel_map
from flows.paths import REFS as REFS_FILE
from flows.paths import SCORES as SCORES_FILE
from flows.paths import SHARDS, ZOOM_MODEL
from flows.stages.entry import main, write_metrics

PHOTO_FILTER = Path("models/zoom_photographs")  # in git: the filter for photographs
SHEET = Path("reports/zoom/contact_sheet.png")
REASONS = ("normal", "zoomed", "unreadable", "not_filtered")
REMEDIES = (
    "Set zoom.filter: photographs (the bundled filter for photographs of products), zoom.enabled: false (keep every "
    "image), or label images of your own"
)


def run(params: Params) -> None:
    """Score every image, several shards in parallel."""
    options = params.zoom
    started = time.perf_counter()
    run_parallel = make_parallel_map(params.pipeline.runner, params.pipeline.workers, "zoom")
    folder = _filter_folder(params)
    model = None if folder is None else ZoomModel.load(folder, choose_device("cpu"))
    if model is not None:
        _check_fits(model, params)
    threshold = options.threshold if options.threshold is not None or model is None else model.threshold
    score = partial(
        score_shard,
        model=folder,
        device=options.device,
        threshold=1.0 if threshold is None else threshold,
        batch_size=options.batch_size,
    )
    total, tables = count_rows(SHARDS, made_by="fetch"), []
    with Progress("zoom", total, "images") as progress, single_threaded_torch():
        for scored in run_parallel(score, shard_paths(SHARDS, made_by="fetch")):
            tables.append(scored)
            progress.advance(scored.num_rows)
    table = concatenate_scores(tables)
    if model is not None:
        _check_share(table, model, options.max_share)
    SHEET.unlink(missing_ok=True)  # written by an earlier run that would have discarded too many
    write_table(SCORES_FILE, table, SCORES)
    seconds = time.perf_counter() - started
    reasons = Counter(table["reason"].to_pylist())
    shop = measure(table, _zoomed_in_shop()) if params.crawl.source == "demo" and options.enabled else None
    kept = reasons["normal"] + reasons["not_filtered"]
    write_metrics(
        "zoom",
        {"images": kept, "dropped": total - kept, "f1_zoomed": shop and shop["f1_zoomed"]},
        {
            "filter": options.filter if options.enabled else None,
            "images_per_reason": {reason: reasons[reason] for reason in REASONS},
            "discarded_share": round(discarded_share(table), 4),
            "threshold": threshold if options.enabled else None,
            "shop": shop,
        },
        {"seconds": round(seconds, 1), "images_per_second": round(total / seconds, 1)},
    )


def _filter_folder(params: Params) -> Path | None:
    """The folder of the filter; None if the filter is disabled."""
    if not params.zoom.enabled:
        return None
    return PHOTO_FILTER if params.zoom.filter == "photographs" else ZOOM_MODEL


def _check_fits(model: ZoomModel, params: Params) -> None:
    """Refuse the filter of the demo for other data: trained on grey images, it would discard a whole catalogue."""
    if params.crawl.source != "demo" and model.data.get("fingerprint") == LABELLED_FINGERPRINT:
        raise InputError(
            f"zoom.filter: trained: expected a filter for the images of crawl.source {params.crawl.source}, got one "
            f"trained on the demo's sample ({model.trained_on}: grey images of 28 px). {REMEDIES} "
            "(atlas import-manifest) and name their folder in zoom_train.labelled"
        )


def _check_share(table: pa.Table, model: ZoomModel, max_share: float) -> None:
    share = discarded_share(table)
    if share <= max_share:
        return
    zoomed = Counter(table["reason"].to_pylist())["zoomed"]
    shown = write_sheet(SHEET, table, SHARDS)
    raise InputError(
        f"zoom: the filter classifies {zoomed} images ({share:.0%}) as close-ups, more than zoom.max_share "
        f"({max_share:.0%}). It was trained on {model.trained_on}. {SHEET} shows {shown} of them, the highest scores "
        f"first. If they show products: {REMEDIES[0].lower()}{REMEDIES[1:]}. If they are "
        "close-ups: raise zoom.max_share"
    )


def _zoomed_in_shop() -> set[str]:
    """The image ids of the close-ups in the demo shop; used for this metric only."""
    refs = read_table(REFS_FILE, REFS, made_by="fetch", columns=["image_url", "image_id"])
    urls = zoomed_urls()
    return {image_id for url, image_id in zip(*refs.to_pydict().values(), strict=True) if url in urls and image_id}


if __name__ == "__main__":
    main(run)
