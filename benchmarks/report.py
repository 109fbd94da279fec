"""Prints the table of a benchmark and writes benchmarks/results/<name>.json."""

import os
import platform
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from atlas_model.core.files import write_json

RESULTS = Path(__file__).resolve().parent / "results"


def paired_medians(runs: int, **variants: Any) -> dict[str, float]:
    """Median seconds of each callable; they run in turns, so that a change of the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for run in range(runs + 1):
        for name, call in variants.items():
            started = perf_counter()
            call()
            if run:  # the first round warms up
                seconds[name].append(perf_counter() - started)
    return {name: median(values) for name, values in seconds.items()}


def report(name: str, rows: list[tuple[str, float, str]], figures: dict[str, Any]) -> None:
    """Print ``rows`` (what, value, unit) and write ``figures``: numbers, or such dictionaries and tuples again."""
    width = max(len(what) for what, _, _ in rows)
    print(f"{name}: {platform.machine()}, {os.cpu_count()} cores")
    for what, value, unit in rows:
        print(f"  {what:<{width}}  {value:10.3f} {unit}")
    write_json(RESULTS / f"{name}.json", _rounded(figures))
    print(f"written: {RESULTS / f'{name}.json'}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return tuple(map(_rounded, value)) if isinstance(value, tuple) else round(value, 4) + 0  # which makes -0.0 0.0
