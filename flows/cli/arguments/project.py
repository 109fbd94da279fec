"""`atlas init`, `check` and `verify`."""

from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the subcommands."""
    starting = commands.add_parser(
        "init",
        help="inspect a folder of images and its table, or a table of URLs, and write params.yaml for them",
        description="Inspect a folder of images and its table (CSV, JSONL or Parquet; see docs/files.md), or a table "
        "or list of image URLs (docs/interchange.md), and write params.yaml for them. Prints each choice with its "
        "reason, the faults of the data, and the next command.",
    )
    starting.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the folder of images; not needed if a Parquet table contains them, or if the table has their URLs",
    )
    starting.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="the table, or a list of URLs (.txt); without one, the folder of an image is its category path",
    )
    starting.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        dest="columns",
        help="the column NAME has this role: image, category (several times: one per level), product, title, price or "
        "split; default: detected",
    )
    starting.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        dest="params_file",
        help="the file to change (default: params.yaml)",
    )
    starting.add_argument("--force", action="store_true", help="overwrite it although it has uncommitted changes")
    starting.set_defaults(command=run_init)

    check = commands.add_parser(
        "check",
        help="find the faults of params.yaml and of the files that it names",
        description="Read params.yaml and the input files that it names, and print all faults. Runs no stage. Before "
        "that, restore what a killed DVC left: a list of files in use, or a dvc.lock, that was cut off. Exit code 0: "
        "no faults; 2: faults.",
    )
    check.set_defaults(command=run_check)

    verify = commands.add_parser(
        "verify",
        help="compare every tracked file, cache and journal with its hash or checksum",
        description="Read every byte of the tracked files, and compare it with its hash: the outputs of the stages, "
        "their copies in DVC's cache, and the data and models in git. Compare work in progress (journals, spools, "
        "checkpoints), caches and records of reviews with their own checksums. Prints each damaged or missing file, "
        "and the commands that bring it back. dvc status and git status do not notice damage that leaves the size and "
        "the time of a file unchanged. Exit code 1: a file is damaged or missing.",
    )
    verify.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object instead")
    verify.set_defaults(command=run_verify)


def run_init(**options: Any) -> int:
    """See `flows.init.command`."""
    from flows.init.command import init

    return init(**options)


def run_check() -> int:
    """See `flows.cli.check`."""
    from flows.cli.check import check

    return check()


def run_verify(as_json: bool) -> int:
    """See `flows.cli.verify`."""
    from flows.cli.verify import verify_files

    return verify_files(as_json=as_json)
