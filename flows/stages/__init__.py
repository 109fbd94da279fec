"""One module per DVC stage: reads the parameters and input files, writes the outputs.

Each module contains ``run(params: Params) -> None`` and ends with ``if __name__ == "__main__": main(run)``. Paths are
in `flows.paths`; the work itself is in `crawlers` and `atlas_model`. Stages do not import Prefect, so `dvc repro`
starts each of them in tenths of a second.
"""

import os
import sys

from atlas_model.core.machine import report_uncaught
from atlas_model.core.processes import die_with_parent

# A stage ends with the DVC process that started it. Set up here, because the imports of a stage may take seconds.
if "DVC_STAGE" in os.environ:
    die_with_parent()
if sys.argv[0] == "-m":  # while `python -m flows.stages.<stage>` is imported: memory or files may run out even then
    sys.excepthook = report_uncaught
