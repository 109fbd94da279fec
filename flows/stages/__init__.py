"""One module per DVC stage: parameters in, files out.

A stage module holds ``run(params: Params) -> None`` and ends with ``if __name__ == "__main__": main(run)``. It
knows where its files are (`flows.paths`) and nothing of how the work is done (`crawlers`, `atlas_model`)
or of who calls it. No Prefect here: a bare `dvc repro` starts each stage in tenths of a second.
"""

import os

from atlas_model.core.processes import die_with_parent

# A stage that outlived the DVC that started it would work for nobody. Here, because a stage may import for seconds.
if "DVC_STAGE" in os.environ:
    die_with_parent()
