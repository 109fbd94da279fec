"""zoom: a score, a verdict and a fingerprint for every picture."""

import time
from collections import Counter
from functools import partial

from atlas_model.device import choose_device, one_thread_each
from atlas_model.params import Params
from atlas_model.progress import Progress
from atlas_model.records import REFS, SCORES, count_rows, read_table, shard_paths, write_table
from atlas_model.zoom import ZoomModel
from atlas_model.zoom_scoring import joined, measure, score_shard
from crawlers.shop.catalogue import zoomed_urls
from flows.fan_out import spreading
from flows.stages.entry import main, write_metrics
from flows.stages.paths import REFS as REFS_FILE
from flows.stages.paths import SCORES as SCORES_FILE
from flows.stages.paths import SHARDS, ZOOM_MODEL


def run(params: Params) -> None:
    """Score every picture of the shards, several shards at once."""
    options = params.zoom
    started = time.perf_counter()
    spread = spreading(params.pipeline.runner, params.pipeline.workers, "zoom")
    threshold = options.threshold
    if threshold is None:
        threshold = ZoomModel.load(ZOOM_MODEL, choose_device("cpu")).threshold
    score = partial(
        score_shard, model=ZOOM_MODEL, device=options.device, threshold=threshold, batch_size=options.batch_size
    )
    total, tables = count_rows(SHARDS, made_by="fetch"), []
    with Progress("zoom", total, "pictures") as progress, one_thread_each():
        for scored in spread(score, shard_paths(SHARDS, made_by="fetch")):
            tables.append(scored)
            progress.advance(scored.num_rows)
    table = joined(tables)
    write_table(SCORES_FILE, table, SCORES)
    seconds = time.perf_counter() - started
    reasons = Counter(table["reason"].to_pylist())
    shop = measure(table, _zoomed_in_shop()) if params.crawl.source == "demo" else None
    write_metrics(
        "zoom",
        {"images": reasons["normal"], "dropped": total - reasons["normal"], "f1_zoomed": shop and shop["f1_zoomed"]},
        {
            "pictures": {reason: reasons[reason] for reason in ("normal", "zoomed", "unreadable")},
            "threshold": threshold,
            "shop": shop,
        },
        {"seconds": round(seconds, 1), "pictures_per_second": round(total / seconds, 1)},
    )


def _zoomed_in_shop() -> set[str]:
    """The pictures that the demo shop knows to be close-ups; only this metric asks for them."""
    refs = read_table(REFS_FILE, REFS, made_by="fetch", columns=["image_url", "image_id"])
    urls = zoomed_urls()
    return {image_id for url, image_id in zip(*refs.to_pydict().values(), strict=True) if url in urls and image_id}


if __name__ == "__main__":
    main(run)
