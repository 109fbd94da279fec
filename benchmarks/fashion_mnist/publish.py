"""Stage ``publish`` of the benchmark: writes its metrics to benchmarks/results/fashion-mnist.json, which is in git."""

import json
import os
import platform
from typing import Any

import torch

from atlas_model.core.files import write_json
from atlas_model.core.params import Params
from benchmarks.report import RESULTS
from flows.paths import TIMINGS
from flows.stages.entry import main, read_metrics

RESULT = RESULTS / "fashion-mnist.json"


def run(params: Params) -> None:
    """Write the metrics of the model and of the baseline on test, and their durations."""
    prepare, train, evaluate = map(read_metrics, ("prepare", "train", "evaluate"))
    timings = TIMINGS / "train.json"  # not there where the models come from DVC's cache
    took = json.loads(timings.read_text(encoding="utf-8")) if timings.is_file() else {}
    result: dict[str, Any] = {
        **evaluate["test"],
        "baseline": evaluate["baseline"]["test"],
        "val": evaluate["val"],
        "training": {name: train[name] | took.get(name, {}) for name in ("categorizer", "baseline")},
        "data": prepare,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    write_json(RESULT, result)


if __name__ == "__main__":
    main(run)
