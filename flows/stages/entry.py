"""What every stage does around its work: read the parameters, write the metrics, end with the right exit code."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from atlas_model.errors import AtlasError
from atlas_model.processes import INTERRUPTED, ancestor_without
from flows.stages.parameters import checked_params
from flows.stages.paths import METRICS
from flows.turns import turn_of_stage

if TYPE_CHECKING:
    from atlas_model.params import Params


def main(run: "Callable[[Params], None]") -> NoReturn:
    """Run a stage as a program: an `AtlasError` becomes one message and its exit code, not a traceback."""
    try:
        with _in_a_shell():
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
            run(checked_params())
    except AtlasError as error:
        from flows.printing import printable_lines

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
        from flows.shell_run import shown

        with shown(stage, dvc):
            yield


def write_metrics(stage: str, metrics: dict[str, Any]) -> None:
    """Write ``metrics/<stage>.json``."""
    from atlas_model.files import write_json

    write_json(METRICS / f"{stage}.json", metrics)
