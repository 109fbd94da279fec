"""zoom_train: labelled zoomed and normal pictures to the model that tells them apart."""

import time
from dataclasses import astuple, fields

from atlas_model.device import choose_device
from atlas_model.errors import MissingError
from atlas_model.files import write_text
from atlas_model.images import Preprocessing
from atlas_model.params import Params
from atlas_model.records import LABELLED, read_table
from atlas_model.zoom_training import ZoomEpoch, read_labelled, train_zoom
from flows.stages.entry import main, write_metrics
from flows.stages.paths import PLOTS, ZOOM_MODEL

HISTORY = PLOTS / "zoom_train" / "history.csv"


def run(params: Params) -> None:
    """Train, save, and report what it came to."""
    options = params.zoom_train
    if not any(options.labelled.glob("*.parquet")):
        raise MissingError(
            f"{options.labelled}: expected labelled pictures (*.parquet), found none. "
            "The sample's are in git; atlas import-manifest makes them from a zoomed/normal manifest."
        )
    started = time.perf_counter()
    preprocessing = Preprocessing(size=options.image_size, mode="RGB", resize="squash")
    labelled = read_labelled(read_table(options.labelled, LABELLED, made_by="zoom_train"), preprocessing)
    model, history = train_zoom(
        labelled,
        preprocessing,
        batch_size=options.batch_size,
        epochs=options.epochs,
        patience=options.patience,
        lr=options.lr,
        val_share=options.val_share,
        test_share=options.test_share,
        seed=options.seed,
        device=choose_device(options.device),
    )
    model.save(ZOOM_MODEL)
    write_text(HISTORY, _csv(history))
    write_metrics(
        "zoom_train",
        {"f1_zoomed": model.metrics["test"]["f1_zoomed"]},
        {
            **model.metrics,
            "threshold": model.threshold,
            "epochs": len(history),
            "dropped": labelled.dropped,
        },
        {"seconds": round(time.perf_counter() - started, 1)},
    )


def _csv(history: list[ZoomEpoch]) -> str:
    rows = [[field.name for field in fields(ZoomEpoch)], *(astuple(record) for record in history)]
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


if __name__ == "__main__":
    main(run)
