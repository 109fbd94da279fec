"""Commands that tests kill, as programs in a project: with small parts, or without the command that calls them.

``python -m tests.support.killed_commands commit`` commits an accepted run; ``predict`` takes the arguments of `atlas`.
"""

import sys

from atlas_model.core.params import load_params
from flows.cli.main import main
from flows.registry.versions import commit_run


def commit() -> int:
    """Push, commit and tag the run of this project."""
    commit_run(load_params(), "Accepted run")
    return 0


def predict(arguments: list[str]) -> int:
    """As `atlas predict`, with a part of the output for each batch."""
    from atlas_model.inference import batch

    vars(batch)["PART_S"] = 0.0
    return main(["predict", *arguments])


if __name__ == "__main__":
    sys.exit(commit() if sys.argv[1] == "commit" else predict(sys.argv[2:]))
