"""What every stage does around its work: read the parameters, write the metrics, end with the right exit code."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from atlas_model.core.errors import AtlasError
from atlas_model.core.processes import INTERRUPTED, ancestor_without
from flows.dvc.pipeline_lock import turn_of_stage
from flows.paths import METRICS, REPORTS, TIMINGS
from flows.stages.parameters import checked_params

if TYPE_CHECKING:
    from atlas_model.core.params import Params

DIGITS = 4  # significant ones, of a headline figure


def main(run: "Callable[[Params], None]") -> NoReturn:
    """Run a stage as a program: an `AtlasError` becomes one message and its exit code, not a traceback."""
    try:
        with _in_a_shell():
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
            run(checked_params())
    except AtlasError as error:
        from flows.text import printable_lines

        sys.stderr.write(printable_lines(f"error: {error}") + "\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


@contextmanager
def _in_a_shell() -> Iterator[None]:
    """Where DVC runs this stage and no flow runs DVC: keep flows away meanwhile, and have the UI show it, if any."""
    stage = os.environ.get("DVC_STAGE")
    if stage is None or "ATLAS_TASK_RUN_ID" in os.environ or os.environ.get("RANK", "0") != "0":
        yield
        return
    dvc = ancestor_without("DVC_STAGE")
    with turn_of_stage(dvc):
        if dvc is None or not os.environ.get("PREFECT_API_URL"):
            yield
            return
        from flows.prefect_app.shell_run import shown

        with shown(stage, dvc):
            yield


def write_metrics(
    stage: str,
    headline: dict[str, Any],
    details: dict[str, Any] | None = None,
    timings: dict[str, Any] | None = None,
) -> None:
    """Write what a stage measured, each part where it belongs.

    Args:
        stage: its name.
        headline: the few figures that git keeps, to ``metrics/<stage>.json``. `dvc metrics show` puts those of all
            stages into one table, a column per name, so names are short and shared. Floats are rounded to `DIGITS`
            significant digits, and None is left out. Nothing that depends on the machine's speed.
        details: all that was measured, also the headline's figures, to ``reports/<stage>/metrics.json``, an output of
            the stage in dvc.yaml.
        timings: seconds and rates, to ``reports/timings/<stage>.json``. Neither git nor DVC keeps them: they differ
            from run to run, and no hash may.
    """
    from atlas_model.core.files import write_json

    write_json(METRICS / f"{stage}.json", _rounded(headline))
    if details is not None:
        write_json(REPORTS / stage / "metrics.json", details)
    if timings is not None:
        write_json(TIMINGS / f"{stage}.json", timings)


def read_metrics(stage: str) -> dict[str, Any]:
    """All that ``stage`` measured; its headline where the details are not there, nothing where neither is."""
    for path in (REPORTS / stage / "metrics.json", METRICS / f"{stage}.json"):
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
    return {}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items() if inner is not None}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
