"""Entry point of every stage: reads the parameters, runs the stage, writes its metrics, sets the exit code."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from atlas_model.core.errors import AtlasError
from atlas_model.core.machine import machine_errors
from atlas_model.core.processes import INTERRUPTED, ancestor_without
from flows.dvc.ended_stages import ENDED
from flows.dvc.pipeline_lock import stage_lock
from flows.paths import METRICS, REPORTS, TIMINGS
from flows.stages.parameters import checked_params

if TYPE_CHECKING:
    from atlas_model.core.params import Params

DIGITS = 4  # significant digits of a headline metric


def main(run: "Callable[[Params], None]") -> NoReturn:
    """Run a stage as a program: an `AtlasError` becomes one message and its exit code, not a traceback."""
    try:
        with machine_errors(), _outside_flow(), machine_errors():  # the inner one: the UI shows its message
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
            run(checked_params())
            _note_end()
    except AtlasError as error:
        from flows.text import printable_lines

        sys.stderr.write(printable_lines(f"error: {error}") + "\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


@contextmanager
def _outside_flow() -> Iterator[None]:
    """If `dvc repro` runs the stage outside a flow: keep flows waiting, and report the run to Prefect's UI, if any."""
    stage = os.environ.get("DVC_STAGE")
    if stage is None or "ATLAS_TASK_RUN_ID" in os.environ or os.environ.get("RANK", "0") != "0":
        yield
        return
    dvc = ancestor_without("DVC_STAGE")
    with stage_lock(dvc):
        if dvc is None or not os.environ.get("PREFECT_API_URL"):
            yield
            return
        from flows.prefect_app.shell_run import reported

        with reported(stage, dvc):
            yield


def _note_end() -> None:
    from atlas_model.core.files import write_text

    stage = os.environ.get("DVC_STAGE")
    if stage is not None:
        write_text(ENDED / stage.rpartition(":")[2], "")


def write_metrics(
    stage: str,
    headline: dict[str, Any],
    details: dict[str, Any] | None = None,
    timings: dict[str, Any] | None = None,
) -> None:
    """Write the metrics of a stage to three files.

    Args:
        stage: its name.
        headline: the few metrics that git tracks, to ``metrics/<stage>.json``. `dvc metrics show` shows those of all
            stages in one table with a column per name, so names are short and shared. Floats are rounded to `DIGITS`
            significant digits, None is omitted. Nothing here may depend on the speed of the machine.
        details: all metrics, those of the headline too, to ``reports/<stage>/metrics.json``, an output of the stage in
            dvc.yaml.
        timings: seconds, rates and what this run did (requests, retries), to ``reports/timings/<stage>.json``. Neither
            git nor DVC tracks them, because they differ from run to run and the hashes of outputs must not.
    """
    from atlas_model.core.files import write_json

    write_json(METRICS / f"{stage}.json", _rounded(headline))
    if details is not None:
        write_json(REPORTS / stage / "metrics.json", details)
    if timings is not None:
        write_json(TIMINGS / f"{stage}.json", timings)


def read_metrics(stage: str) -> dict[str, Any]:
    """The metrics of ``stage``: all of them, else the headline, else nothing."""
    for path in (REPORTS / stage / "metrics.json", METRICS / f"{stage}.json"):
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
    return {}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items() if inner is not None}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
