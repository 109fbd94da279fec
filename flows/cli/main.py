"""Entry point of the `atlas` command: parses arguments and calls the subcommand, whose module is imported only then.

Results go to stdout, messages to stderr. Exit codes: 0 done, 1 failure, 2 bad input, 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from atlas_model.core.errors import AtlasError
from atlas_model.core.machine import machine_errors
from atlas_model.core.processes import INTERRUPTED
from atlas_model.core.progress import say
from flows.cli.arguments import crawl, gc, interchange, models, predict, project, review, serve
from flows.text import printable_lines

BROKEN_PIPE = 141  # as a shell reports a program whose reader closed the pipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `atlas` command and return its exit code."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        with machine_errors():
            exit_code: int = command(**options)
            sys.stdout.flush()
            return exit_code
    except AtlasError as error:
        say(printable_lines(f"error: {error}"))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit would fail again
        return BROKEN_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="atlas", description="Categorises product images in one taxonomy.")
    parser.add_argument("--version", action="version", version=f"atlas {version('atlas')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (predict, serve, models, crawl, project, gc, review, interchange):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
