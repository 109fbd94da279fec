"""`atlas gc`."""

from typing import Any

from flows.cli.arguments.types import positive

KEEP = 10  # crawls: the default


def add(commands: Any) -> None:
    """Add the subcommand."""
    collecting = commands.add_parser(
        "gc",
        help="delete the data of old crawls and models that nothing needs",
        description="Find what nothing needs in DVC's cache, in DVC's run cache and in .atlas, and print it by kind, "
        "with sizes and reasons. With --yes, delete it. These are kept: the data of the workspace and of every git "
        "reference (branches, also those of remotes, tags, experiments, stashes), of the last crawls, of the champion, "
        "and the models of the last promotions. Exit code 1: a run is in progress; nothing is deleted.",
    )
    collecting.add_argument("--yes", action="store_true", help="delete what is found; without it, nothing is deleted")
    collecting.add_argument(
        "--keep",
        type=positive,
        default=KEEP,
        metavar="N",
        help=f"number of the last crawls, and of the last promotions, whose data are kept (default: {KEEP})",
    )
    collecting.add_argument(
        "--cloud",
        action="store_true",
        help="also the default remote. Other clones may push to it: get their branches and tags first (git fetch "
        "--all --tags)",
    )
    collecting.set_defaults(command=run_gc)


def run_gc(**options: Any) -> int:
    """See `flows.cli.gc`."""
    from flows.cli.gc import collect

    return collect(**options)
