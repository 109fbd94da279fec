"""``atlas results``: prints the main metrics on one screen, the comparison with the champion, and the report files.

Everything is read from files: metrics/ and reports/, models/champions.json and reports/promote/. Missing results are
reported as warnings. Categories are untrusted text.
"""

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_model.core.errors import MissingError
from atlas_model.taxonomy.tree import SEPARATOR
from flows.evaluation_tables import read_categories, read_predictions, weakest_categories
from flows.paths import CATEGORIZER, EVALUATION, METRICS, REPORT, REPORTS, TAXONOMY
from flows.registry import champion
from flows.registry.model_folders import locked_model
from flows.registry.promote import REPORTS as COMPARISONS
from flows.report.facts.caveats import doubtful_metrics, large_losses, worse_than_classifier
from flows.stages.entry import read_metrics
from flows.text import printable
from flows.text import share as _share

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 100  # columns
LABEL = 26  # of them, for the name of a metric
SHOWN = 4  # weakest categories, and pairs of confused categories


def show_results(*, as_json: bool) -> int:
    """Print the results of the last run.

    Args:
        as_json: one JSON object instead of a screen.

    Raises:
        MissingError: there are no results.
    """
    found = collect()
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if as_json else "\n".join(screen(found)) + "\n")
    return 0


def collect() -> dict[str, Any]:
    """The results as JSON values; None or empty for stages that have not run.

    Raises:
        MissingError: no stage has run.
    """
    evaluate, split, zoom, train = map(read_metrics, ("evaluate", "split", "zoom", "train"))
    if not (evaluate or split or zoom or train):
        raise MissingError(
            f"no results here: expected {METRICS}/<stage>.json of a run, found none. Run the stages: dvc repro"
        )
    categories = read_categories()
    found = {
        "test": _figures(evaluate, "test"),
        "val": _figures(evaluate, "val"),
        "classifier": _classifier(evaluate),
        "modes": evaluate.get("modes") or {},
        "train": _trained(train),
        "split": _split(split),
        "zoom": _zoom(zoom),
        "champion": _champion(),
        "weakest": weakest_categories(categories, SHOWN)[["category", "f1", "n"]].to_dict("records"),
        "confused": _confused(read_predictions()),
        "reports": [str(path) for path in _reports() if path.exists()],
    }
    return {"warnings": [*_missing(evaluate, categories), *_warnings(found, categories)], **found}


def screen(found: dict[str, Any]) -> list[str]:
    """``found`` in about 24 lines of `WIDTH` columns."""
    lines = [line for warning in found["warnings"] for line in _wrapped("warning:", warning, 9)]
    lines += _evaluation_lines(found)
    sizes, zoom, train = found["split"], found["zoom"], found["train"]
    if train:
        lines += _wrapped("trained", ", ".join(f"{key} {_short(value)}" for key, value in train.items()))
    if sizes:
        parts = ", ".join(f"{name} {count:,}" for name, count in sizes["images"].items())
        lines += _wrapped("images", parts or f"{sizes['kept']:,}")
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in sizes["dropped"].items())
        lines += _wrapped("discarded", dropped or f"{sizes['left_out']:,}")
    if zoom:
        lines += _wrapped("close-ups", f"{zoom['dropped']:,} of {zoom['total']:,} ({zoom['share']:.1%})")
    lines += _wrapped("champion", found["champion"]["text"])
    lines += _wrapped("weakest categories", "; ".join(_category_text(row) for row in found["weakest"]))
    pairs = "; ".join(f"{row['actual']} as {row['predicted']} {row['n']}" for row in found["confused"])
    lines += _wrapped("most often confused", pairs)
    lines += _wrapped("report files", ", ".join(found["reports"]))
    return lines


# --- results


def _figures(evaluate: dict[str, Any], split: str) -> dict[str, Any]:
    return {key: value for key, value in (evaluate.get(split) or {}).items() if value is not None}


def _classifier(evaluate: dict[str, Any]) -> dict[str, Any]:
    """Micro F of the plain classifier on test, and the difference of the sequence model to it."""
    plain = evaluate.get("baseline") or {}
    figure = (plain.get("test") or {}).get("micro_f1", evaluate.get("classifier_f1"))
    return {"micro_f1": figure, "difference": (plain.get("difference") or {}).get("micro_f1")} if figure else {}


def _trained(train: dict[str, Any]) -> dict[str, Any]:
    own = train.get("categorizer") or {}
    return {name: own[key] for key, name in (("epochs", "epochs"), ("best_epoch", "best epoch")) if key in own}


def _split(split: dict[str, Any]) -> dict[str, Any]:
    if not split:
        return {}
    images, dropped = split.get("images_per_split") or {}, split.get("dropped") or {}
    if not isinstance(dropped, dict):  # a fresh clone has only the headline
        return {"images": {}, "dropped": {}, "kept": split.get("images", 0), "left_out": dropped}
    reasons = dict(sorted(dropped.items(), key=lambda item: -item[1]))
    return {"images": images, "dropped": reasons, "kept": sum(images.values()), "left_out": sum(reasons.values())}


def _zoom(zoom: dict[str, Any]) -> dict[str, Any]:
    counts = zoom.get("images_per_reason")
    if counts:
        total, dropped = sum(counts.values()), counts.get("zoomed", 0)
    elif "dropped" in zoom:
        total, dropped = zoom.get("images", 0) + zoom["dropped"], zoom["dropped"]
    else:
        return {}
    return {"dropped": dropped, "total": total, "share": dropped / total if total else 0.0}


def _champion() -> dict[str, Any]:
    """The champion, and the comparison of the last model with it."""
    history = champion.read_history()
    if not history:
        return {"version": None, "text": "none yet; to make the last model the champion: atlas promote"}
    current, last = history[-1], locked_model()
    version = f"version {current.version}"
    if last == current.model:
        text = f"{version}, which is the last model: {current.reason}"
    elif last is None:
        text = f"{version}: {current.reason}"
    else:
        report = COMPARISONS / f"{current.model[:8]}..{last[:8]}.json"
        text = f"{version}; not compared with the last model yet; to compare: atlas promote"
        with suppress(OSError, ValueError, KeyError):
            known = json.loads(report.read_text(encoding="utf-8"))
            taken = "may replace it" if known["accepted"] else "did not replace it"
            text = f"{version}; the last model {taken}: {known['reason']}"
    return {"version": current.version, "is_last_model": last == current.model, "text": text}


def _confused(predictions: "pd.DataFrame") -> list[dict[str, Any]]:
    """The most frequent confusions in the test split; categories by their last names if these are unique."""
    wrong = predictions[predictions["actual_category"] != predictions["predicted_category"]]
    pairs = wrong[wrong["split_value"] == "test"].groupby(["actual_category", "predicted_category"]).size()
    top = pairs.sort_values(ascending=False, kind="stable").head(SHOWN).reset_index().to_numpy().tolist()
    last = Counter(label.split(SEPARATOR)[-1] for label in {label for *pair, _ in top for label in pair})

    def short(label: str) -> str:
        name = label.rsplit(SEPARATOR, maxsplit=1)[-1]
        return name if last[name] == 1 else label

    return [{"actual": short(actual), "predicted": short(predicted), "n": n} for actual, predicted, n in top]


def _reports() -> list[Path]:
    names = ("confusion.png", "reliability.png", "categories.csv", "attention")
    return [
        REPORT,
        *(EVALUATION / name for name in names),
        REPORTS / "zoom/contact_sheet.png",
        EVALUATION / "metrics.json",
    ]


# --- warnings


def _missing(evaluate: dict[str, Any], categories: "pd.DataFrame") -> Iterator[str]:
    """Warnings about stages that have not run, or belong to another run."""
    if not evaluate:
        yield "not evaluated yet: dvc repro"
        return
    if categories.empty:
        yield f"{METRICS}/ belongs to the committed run, whose reports/ are missing here: dvc pull, or dvc repro"
    elif not CATEGORIZER.is_dir():
        yield f"metrics of the last complete run: {CATEGORIZER} is missing; a training is running or was stopped"
    elif locked_model() != locked_model("evaluate"):
        yield "the metrics belong to another model than the last one: dvc repro"


def _warnings(found: dict[str, Any], categories: "pd.DataFrame") -> Iterator[str]:
    """Warnings about metrics that may be meaningless."""
    met = categories[categories["split"] == "test"].set_index("category")["n"]
    known = len(json.loads(TAXONOMY.read_text(encoding="utf-8"))["paths"]) if TAXONOMY.is_file() else None
    sizes = {name: found[name].get("n") for name in ("test", "val")}
    yield from doubtful_metrics(found["test"], {str(label): int(n) for label, n in met.items()}, sizes, known)
    yield from worse_than_classifier((found["classifier"].get("difference") or {}).get("interval"))
    if found["split"]:
        yield from large_losses(found["split"]["kept"], found["split"]["left_out"])


# --- lines


def _evaluation_lines(found: dict[str, Any]) -> Iterator[str]:
    splits = [name for name in ("test", "val") if found[name]]
    if not splits:
        return
    yield _columns("", [f"{name}, {found[name]['n']:,} images" if "n" in found[name] else name for name in splits])
    for key, name in (
        ("micro_f1", "exact path (micro F)"),
        ("macro_f1", "macro F"),
        ("level_accuracy", "accuracy per level"),
        ("ece", "calibration error"),
    ):
        if any(key in found[split] for split in splits):
            yield _columns(name, [_cell(found[split], key) for split in splits])
    products = [found[split].get("products") or {} for split in splits]
    if any(products):
        yield _columns("products (all images)", [_cell(each, "micro_f1") for each in products])
    for mode, figures in found["modes"].items():
        yield _columns(printable(mode).replace("_", " "), [_cell(figures, "micro_f1")])
    if found["classifier"]:
        text, difference = _share(found["classifier"]["micro_f1"]), found["classifier"]["difference"]
        if difference:
            low, high = (_share(end, sign=True) for end in difference["interval"])
            text += f"; difference of the sequence model {_share(difference['value'], sign=True)} ({low} to {high})"
        yield _columns("plain classifier", [text])


def _cell(figures: dict[str, Any], key: str) -> str:
    value = figures.get(key)
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join("-" if each is None else _share(each) for each in value)
    interval = (figures.get("intervals") or {}).get(key)
    return f"{_share(value)} ({_range(interval)})" if interval else _share(value)


def _columns(name: str, cells: Sequence[str]) -> str:
    return f"{name:<{LABEL}}{'  '.join(f'{cell:<26}' for cell in cells)}".rstrip()


def _wrapped(name: str, text: str, indent: int = LABEL) -> list[str]:
    """``text`` in at most two lines; none if it is empty."""
    if not text:
        return []
    options: dict[str, Any] = {"break_long_words": True, "max_lines": 2, "placeholder": " ..."}
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent=f"{name:<{indent}}", subsequent_indent=" " * indent, **options
    )


def _category_text(row: dict[str, Any]) -> str:
    return f"{row['category']} {_share(row['f1'])} ({row['n']} images)"


def _range(interval: Sequence[float]) -> str:
    return " to ".join(_share(each) for each in interval)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
