"""Stage `train`: the splits to models/categorizer and, with the same encoder and budget, models/baseline.

Work in progress lies in .atlas/train/, keyed by the parameters, the splits and the code: a killed run resumes after
its last epoch, a run with anything changed starts anew, and so does one after a run that ended well.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from dvclive import Live

import atlas_model
from atlas_model.categorizer import Architecture, Categorizer, Classifier, Model, save
from atlas_model.dataset import Split, content_key, load_split, load_taxonomy_json
from atlas_model.device import choose_device
from atlas_model.params import Params, TrainParams
from atlas_model.training import EpochRecord, Recipe, best_record, fit
from flows.stages.entry import main, write_metrics
from flows.stages.paths import BASELINE, CATEGORIZER, PLOTS, SPLITS, TAXONOMY, WORK


def run(params: Params) -> None:
    """Train both models."""
    given = params.train
    device = choose_device(given.device)
    taxonomy = load_taxonomy_json(TAXONOMY)
    train, val = (load_split(SPLITS, name, taxonomy, WORK / "pixels") for name in ("train", "val"))
    work = WORK / "train" / _key(given)
    # Fields and parameters share their names, so that a new one is written in two places, not three.
    recipe = Recipe(**given.model_dump(include=set(Recipe.__dataclass_fields__)))
    sizes = given.model_dump(include=set(Architecture.__dataclass_fields__))
    architecture = Architecture(**sizes, in_channels=train.pixels.shape[1])

    def learn(model: Model, recipe: Recipe, folder: Path, live: Live) -> list[EpochRecord]:
        name = folder.name
        records = fit(
            model,
            train,
            val,
            recipe,
            device=device,
            state_file=work / f"{name}.safetensors",
            job=f"train {name}",
            on_epoch=_plotter(live, name),
        )
        best = best_record(records)
        chosen = {"epoch": best.epoch, "val_accuracy": best.val_accuracy}
        save(model, folder, train.preprocessing, params=given.model_dump(mode="json"), metrics=chosen)
        return records

    with Live(dir=str(PLOTS / "train"), dvcyaml=None, save_dvc_exp=False) as live:
        torch.manual_seed(given.seed)
        model = Categorizer(
            architecture,
            taxonomy,
            weights=given.weights,
            alpha_c=given.alpha_c,
            alpha_target=given.alpha_target,
            label_smoothing=given.label_smoothing,
        )
        records = learn(model, recipe, CATEGORIZER, live)
        torch.manual_seed(given.seed)
        seen = len(records)  # epochs: the baseline sees as many pictures, no more and no fewer
        same_budget = replace(recipe, epochs=seen, patience=seen)
        classifier = Classifier(architecture, taxonomy, weights=given.weights, label_smoothing=given.label_smoothing)
        baseline = learn(classifier, same_budget, BASELINE, live)
    shutil.rmtree(WORK / "train")
    write_metrics(
        "train",
        {
            "categorizer": _summary(records, train),
            "baseline": _summary(baseline, train),
            "device": device.type,
        },
    )


def _key(given: TrainParams) -> str:
    code = sorted(Path(atlas_model.__file__).parent.glob("*.py"))
    content = content_key([TAXONOMY, *sorted(SPLITS.glob("*.parquet")), *code])
    return hashlib.sha256(f"{given.model_dump_json()} {torch.__version__} {content}".encode()).hexdigest()[:32]


def _plotter(live: Live, name: str) -> Callable[[EpochRecord], None]:
    def plot(record: EpochRecord) -> None:
        live.step = record.epoch
        for figure in ("train_loss", "val_accuracy", "lr"):
            live.log_metric(f"{name}/{figure}", record.plain[figure])
        live.make_summary()

    return plot


def _summary(records: list[EpochRecord], train: Split) -> dict[str, float | int]:
    best, seconds = best_record(records), sum(record.seconds for record in records)
    return {
        "val_accuracy": best.val_accuracy,
        "best_epoch": best.epoch,
        "epochs": len(records),
        "pictures": len(train),
        "seconds": round(seconds, 1),
        "pictures_per_s": round(len(records) * len(train) / seconds, 1),
        "data_share": round(sum(record.data_share for record in records) / len(records), 4),
    }


if __name__ == "__main__":
    main(run)
