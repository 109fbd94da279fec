"""The reference of the command `atlas`, from its argument parsers."""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from flows.cli.main import _parser
from tools.docs_site.markdown import code, plain, table


def cli_reference() -> str:
    """Markdown: a heading, the usage and the arguments of each subcommand."""
    with _width(100):
        return "\n".join(_sections(_parser()))


@contextmanager
def _width(columns: int) -> Iterator[None]:
    """Have argparse wrap at ``columns``, not at the width of this terminal."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not commands:
        usage = parser.format_usage().removeprefix("usage: ").rstrip()
        yield f"## {parser.prog}\n\n{_description(parser)}\n\n```text\n{usage}\n```\n\n{_arguments(parser)}"
    for action in commands:
        for command in dict.fromkeys(action.choices.values()):
            yield from _sections(command)


def _description(parser: argparse.ArgumentParser) -> str:
    text = (parser.description or "").replace("%(prog)s", parser.prog)
    if parser.formatter_class is not argparse.RawTextHelpFormatter:
        return plain(text)
    first, _, rest = text.partition("\n\n")
    return f"{plain(first)}\n\n```text\n{rest.strip()}\n```" if rest else plain(first)


def _arguments(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        if action.choices and not action.metavar:
            value = "{" + ",".join(map(str, action.choices)) + "}"
        names = [f"{name} {value}".strip() for name in action.option_strings] or [str(value)]
        rows.append([", ".join(map(code, names)), _help(action, parser)])
    return table(("argument", "meaning"), rows) if rows else "It has no arguments.\n"


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    values = {**vars(action), "prog": parser.prog}
    return plain(re.sub(r"%\((\w+)\)s", lambda name: str(values.get(name[1])), action.help or "").replace("%%", "%"))
