"""`atlas export`, `promote`, `rollback` and `results`."""

import sys
from pathlib import Path
from typing import Any

from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import say
from flows.cli.arguments.types import positive


def add(commands: Any) -> None:
    """Add the subcommands."""
    export = commands.add_parser(
        "export",
        help="export a trained model as graphs that run without torch",
        description="Export a trained model to a folder: its graphs in the format ONNX or OpenVINO, and export.json, "
        "which describes them and holds the taxonomy. Running the graphs needs neither torch nor Atlas.",
    )
    export.add_argument("output", type=Path, metavar="OUT_FOLDER", help="a folder that does not exist or is empty")
    export.add_argument("--model", metavar="DIR", help="see atlas predict --help")
    export.add_argument("--format", choices=("onnx", "openvino"), default="onnx", dest="form", help="default: onnx")
    export.set_defaults(command=run_export)

    promoting = commands.add_parser(
        "promote",
        help="make the last trained model the champion, if it is non-inferior",
        description="Compare the last trained model with the champion on today's validation split. If it is "
        "non-inferior (95 % interval, margins in the section promote of params.yaml), it becomes the champion: the "
        "model that atlas predict uses. Exit code 1: it was not promoted.",
    )
    promoting.add_argument(
        "--force",
        action="store_true",
        help="promote it without the comparison, also if the champion's folder is damaged",
    )
    promoting.set_defaults(command=run_promote)

    rolling_back = commands.add_parser(
        "rollback",
        help="make an earlier champion the champion again",
        description="Make an earlier champion the champion again. The model that it replaces is not promoted again "
        "without --force.",
    )
    rolling_back.add_argument(
        "version",
        nargs="?",
        type=positive,
        metavar="VERSION",
        help="its version in models/champions.json; default: the previous champion",
    )
    rolling_back.set_defaults(command=run_roll_back)

    results = commands.add_parser(
        "results",
        help="print the metrics of the last run on one screen, and the files with the details",
        description="Print the metrics of the last run on one screen: the model on the validation and test split, the "
        "discarded images, the comparison with the champion, the weakest categories, warnings, and the files with the "
        "details.",
    )
    results.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object instead")
    results.set_defaults(command=run_results)


def run_export(**options: Any) -> int:
    """See `flows.cli.export`."""
    from flows.cli.export import export_model

    return export_model(**options)


def run_promote(force: bool) -> int:
    """Print the decision."""
    import html

    from atlas_model.core.params import load_params
    from flows.registry.promote import promote

    decision = promote(load_params(), force=force)
    sys.stdout.write(html.unescape(decision.markdown))
    if decision.promoted:
        _say_report_is_older()
    return 0 if decision.accepted else AtlasError.exit_code


def run_roll_back(version: int | None) -> int:
    """Print the new champion."""
    from flows.registry.champion import roll_back

    champion = roll_back(version)
    sys.stdout.write(f"the champion is version {champion.version} again: {champion.reason}\n")
    _say_report_is_older()
    return 0


def _say_report_is_older() -> None:
    from flows.paths import REPORT

    if REPORT.is_file():
        say(f"{REPORT} compares with the champion before; to renew it: dvc repro report")


def run_results(as_json: bool) -> int:
    """See `flows.cli.results`."""
    from flows.cli.results import show_results

    return show_results(as_json=as_json)
