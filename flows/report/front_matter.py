"""The YAML front matter of model cards and data cards, as the Hugging Face Hub reads it.

The format is described in the Hub's documentation, "Model Cards" and "Dataset Cards": ``model-index`` lists the results
of a model, ``dataset_info`` the features and splits of a data set, ``configs`` the files of its splits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

DIGITS = 4  # significant digits of a result, as in metrics/*.json
UNKNOWN_LICENSE = "unknown"  # an identifier of the Hub
TASK = "image-classification"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGER = "1M<n<10M"


@dataclass(frozen=True)
class Result:
    """A metric of a model."""

    type: str  # identifier of the Hub, such as f1
    name: str
    value: float


@dataclass(frozen=True)
class Tested:
    """The results of a model on one data set."""

    task: str  # what the model is given, in words
    dataset: str  # name of the data set
    dataset_type: str  # identifier
    split: str
    results: tuple[Result, ...]


def rounded(value: float) -> float:
    """``value`` with `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def results(metrics: Mapping[str, Any]) -> tuple[Result, ...]:
    """The results in the metrics of one split, as reports/evaluate/metrics.json has them."""
    names = (
        ("accuracy", "micro_f1", "Exact category path (micro F)"),
        ("f1", "macro_f1", "Macro F"),
        ("f1", "hierarchical_f1", "Hierarchical F"),
        ("expected_calibration_error", "ece", "Expected calibration error"),
    )
    return tuple(Result(kind, name, rounded(metrics[key])) for kind, key, name in names if metrics.get(key) is not None)


def model_front_matter(
    *,
    name: str,
    license: str | None,
    tags: Iterable[str],
    tested: Sequence[Tested],
    more: Mapping[str, Any] | None = None,
) -> str:
    """The front matter of a model card, with the lines around it.

    Args:
        name: of the model.
        license: identifier of the Hub; None: unknown.
        tags: in addition to those of every model of Atlas.
        tested: the results.
        more: further keys.
    """
    index = [
        {
            "task": {"type": TASK, "name": each.task},
            "dataset": {"name": each.dataset, "type": each.dataset_type, "split": each.split},
            "metrics": [{"type": one.type, "name": one.name, "value": one.value} for one in each.results],
        }
        for each in tested
        if each.results
    ]
    values: dict[str, Any] = {
        "license": license or UNKNOWN_LICENSE,
        "library_name": "atlas",
        "pipeline_tag": TASK,
        "tags": ["atlas", "product-categorization", "taxonomy", "safetensors", *tags],
        "metrics": ["accuracy", "f1"],
        **(more or {}),
    }
    if index:
        values["model-index"] = [{"name": name, "results": index}]
    return front_matter(values)


def dataset_front_matter(
    *, name: str, license: str | None, features: Mapping[str, Mapping[str, Any]], splits: Mapping[str, int], size: int
) -> str:
    """The front matter of a data card, with the lines around it.

    Args:
        name: of the data set.
        license: identifier of the Hub; None: unknown.
        features: of the columns, as ``datasets`` writes them into the metadata of Parquet files.
        splits: name -> images.
        size: bytes of all files.
    """
    images = sum(splits.values())
    return front_matter(
        {
            "license": license or UNKNOWN_LICENSE,
            "pretty_name": name,
            "task_categories": [TASK],
            "task_ids": ["multi-class-image-classification"],
            "size_categories": [next((name for limit, name in SIZES if images < limit), LARGER)],
            "tags": ["atlas", "product-categorization", "taxonomy"],
            "dataset_info": {
                "features": [{"name": column, **_feature(feature)} for column, feature in features.items()],
                "splits": [{"name": split, "num_examples": count} for split, count in splits.items()],
                "download_size": size,
            },
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [{"split": split, "path": f"{split}-*.parquet"} for split in splits],
                }
            ],
        }
    )


def front_matter(values: Mapping[str, Any]) -> str:
    """``values`` as YAML between lines of dashes."""
    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1000)}---\n"


def _feature(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A feature as data cards write it."""
    if feature["_type"] == "Image":
        return {"dtype": "image"}
    if feature["_type"] == "List":
        return {"list": feature["feature"]["dtype"]}
    return {"dtype": feature["dtype"]}
