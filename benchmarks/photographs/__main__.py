"""``python -m benchmarks.photographs [run|errors|table|bundle]``; ``make benchmark NAME=photographs`` is ``run``.

Exit codes as for `atlas`: 0 done, 1 failure, 2 bad input, 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from atlas_model.core.errors import AtlasError
from atlas_model.core.files import write_json
from atlas_model.core.processes import INTERRUPTED
from atlas_model.core.progress import say
from benchmarks.photographs.photographs import ROOT, find_photographs
from benchmarks.photographs.targets import printed, read_result, write_into
from benchmarks.report import RESULTS

WORKSPACE = ROOT / ".atlas/benchmarks/photographs"  # outside of git
RESULT = RESULTS / "photographs.json"
PAGE = ROOT / "docs/photographs.md"
BUNDLED = ROOT / "models/pretrained"
SEEDS = (1, 2, 3)
DRAWS = (1, 2, 3)
DRAWN = 300
COMMANDS = {
    "run": "measure, print the table and write the result (default)",
    "errors": "write contact sheets of the worst errors, and CSV files of errors and confusions",
    "bundle": "make the model of a seed the bundled model, in half precision",
    "table": "print the table of the result and write it into docs/photographs.md",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given if given and given[0] in (*COMMANDS, "-h", "--help") else ["run", *given])
    try:
        options.does(options)
    except AtlasError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("photographs: interrupted; the same command resumes")
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photographs", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    running, errors, bundling, showing = (commands.add_parser(name, help=text) for name, text in COMMANDS.items())
    for each, does in ((running, _run), (errors, _errors), (bundling, _bundle), (showing, _table)):
        each.set_defaults(does=does)
        each.add_argument(
            "--workspace", type=Path, default=WORKSPACE, metavar="DIR", help="workspace (default: %(default)s)"
        )
        each.add_argument(
            "--result", type=Path, default=RESULT, metavar="FILE", help="JSON file of the result (default: %(default)s)"
        )
    running.add_argument(
        "--params", type=Path, default=Path(__file__).with_name("params.yaml"), metavar="FILE", help="parameters"
    )
    running.add_argument(
        "--seeds", type=int, nargs="+", default=SEEDS, metavar="N", help="seeds of training (default: 1 2 3)"
    )
    running.add_argument(
        "--draws",
        type=int,
        nargs="*",
        default=DRAWS,
        metavar="N",
        help="seeds of the samples of images (default: 1 2 3)",
    )
    running.add_argument("--drawn", type=int, default=DRAWN, metavar="N", help="images per sample (default: 300)")
    errors.add_argument("--seed", type=int, default=SEEDS[0], metavar="N", help="seed of the model (default: 1)")
    errors.add_argument("--count", type=int, default=200, metavar="N", help="errors on the sheets (default: 200)")
    bundling.add_argument("--seed", type=int, default=SEEDS[0], metavar="N", help="seed of the model (default: 1)")
    bundling.add_argument(
        "--folder", type=Path, default=BUNDLED, metavar="DIR", help="folder of the bundled model (default: %(default)s)"
    )
    showing.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="page (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    photographs = find_photographs()
    from benchmarks.photographs.measure import Plan, measure

    plan = Plan(
        photographs,
        options.workspace.absolute(),
        options.params,
        seeds=tuple(options.seeds),
        draws=tuple(options.draws),
        drawn=options.drawn,
    )
    figures = measure(plan)
    write_json(options.result, figures)
    print(printed(figures))
    print(f"written: {options.result}")


def _errors(options: argparse.Namespace) -> None:
    from benchmarks.photographs.errors import write_errors

    for path in write_errors(options.workspace, options.seed, options.count):
        print(path)


def _bundle(options: argparse.Namespace) -> None:
    from benchmarks.photographs.bundle import bundle

    size = bundle(options.workspace / f"seeds/{options.seed}/models/categorizer", options.folder)
    print(f"{options.folder}: {size / 1e6:.1f} MB of weights. Update the metrics in its README.md")


def _table(options: argparse.Namespace) -> None:
    figures = read_result(options.result)
    print(printed(figures))
    write_into(options.page, figures)
    print(f"written: {options.page}")


if __name__ == "__main__":
    sys.exit(main())
