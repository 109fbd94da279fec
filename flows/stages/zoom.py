"""zoom: a score, a verdict and a fingerprint for every picture."""

import time
from collections import Counter

from atlas_model.device import choose_device
from atlas_model.params import Params
from atlas_model.records import IMAGES, REFS, SCORES, count_rows, iterate_shards, read_table, write_table
from atlas_model.zoom import ZoomModel
from atlas_model.zoom_scoring import measure, score_pictures
from crawlers.shop.catalogue import zoomed_urls
from flows.stages.entry import main, write_metrics
from flows.stages.paths import REFS as REFS_FILE
from flows.stages.paths import SCORES as SCORES_FILE
from flows.stages.paths import SHARDS, ZOOM_MODEL


def run(params: Params) -> None:
    """Score every picture of the shards."""
    options = params.zoom
    started = time.perf_counter()
    model = ZoomModel.load(ZOOM_MODEL, choose_device(options.device))
    threshold = model.threshold if options.threshold is None else options.threshold
    total = count_rows(SHARDS, made_by="fetch")
    batches = iterate_shards(SHARDS, IMAGES, made_by="fetch", batch_rows=options.batch_size)
    table = score_pictures(batches, model, threshold, total)
    write_table(SCORES_FILE, table, SCORES)
    seconds = time.perf_counter() - started
    reasons = Counter(table["reason"].to_pylist())
    write_metrics(
        "zoom",
        {
            "pictures": {reason: reasons[reason] for reason in ("normal", "zoomed", "unreadable")},
            "threshold": threshold,
            "shop": measure(table, _zoomed_in_shop()) if params.crawl.source == "demo" else None,
            "seconds": round(seconds, 1),
            "pictures_per_second": round(total / seconds, 1),
        },
    )


def _zoomed_in_shop() -> set[str]:
    """The pictures that the demo shop knows to be close-ups; only this metric asks for them."""
    refs = read_table(REFS_FILE, REFS, made_by="fetch", columns=["image_url", "image_id"])
    urls = zoomed_urls()
    return {image_id for url, image_id in zip(*refs.to_pydict().values(), strict=True) if url in urls and image_id}


if __name__ == "__main__":
    main(run)
