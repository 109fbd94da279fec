"""What every stage does around its work: read the parameters, write the metrics, end with the right exit code."""

import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from atlas_model.errors import AtlasError
from atlas_model.files import write_json
from atlas_model.params import Params, load_params
from atlas_model.processes import INTERRUPTED
from flows.stages.paths import METRICS


def main(run: Callable[[Params], None]) -> NoReturn:
    """Run a stage as a program: an `AtlasError` becomes one message and its exit code, not a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        run(load_params())
    except AtlasError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


def write_metrics(stage: str, metrics: dict[str, Any]) -> None:
    """Write ``metrics/<stage>.json``."""
    write_json(METRICS / f"{stage}.json", metrics)
