"""``python -m tools.snippets``: every command and Python example in the pages, and how it is checked.

A command or example is executed by tests/project/test_snippets.py, unless a rule of tools/snippets.yaml names another
test that executes it, or the reason why no test does. Blocks of data (YAML, JSON, CSV, trees of files) are no snippets.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atlas_model.core.errors import InputError
from atlas_model.core.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "tools/snippets.yaml"
RUNNER = "tests/project/test_snippets.py"
GLOBS = ("README.md", "CONTRIBUTING.md", "data/README.md", "models/*/README.md", "examples/README.md", "docs/**/*.md")
SHELLS = {"bash", "sh", "shell", "console"}
DATA = {"text", "yaml", "json", "jsonl", "csv", "toml", "html", "ini", "dockerfile", "diff", "http", "mermaid"}
PROGRAM = re.compile(r"(?:[A-Z_]+=\S* )*[./]*[a-z][\w./-]*(?: |$)")
OURS = re.compile(r"(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?(?:atlas|make|dvc|python|prefect|pip|git|docker|curl)(?: |$)")
HEREDOC = re.compile(r"<<-? ?['\"]?(\w+)['\"]?")
COMMENT = re.compile(r"(?:^|\s+)#\s.*$")

Text = Annotated[str, Field(min_length=1)]


class Rule(BaseModel):
    """How the snippets that match are checked; the first rule that matches holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    page: Text = "*"  # pattern of the page
    snippet: Text = "*"  # pattern of the whole command, or of the Python example
    tested_by: Text | None = None  # file::test that executes it
    not_run: Text | None = None  # why no test executes it
    replace: dict[str, str] | None = None  # executed with other values: text -> text
    prepared: bool = False  # no page has such a snippet yet

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.tested_by is not None) + (self.not_run is not None) + (self.replace is not None) > 1:
            raise ValueError("expected one of tested_by, not_run and replace")
        return self


class Rules(BaseModel):
    """The content of tools/snippets.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rules: list[Rule]


@dataclass(frozen=True)
class Snippet:
    """A command, with its continuation lines, or a Python example."""

    page: str
    line: int  # of the page, from 1
    kind: Literal["command", "python"]
    text: str

    @property
    def title(self) -> str:
        """Its first line, without comments."""
        return self.text.splitlines()[0]


@dataclass(frozen=True)
class Checked:
    """A snippet and how it is checked."""

    snippet: Snippet
    rule: Rule | None

    @property
    def how(self) -> str:
        """One line that says how."""
        rule = self.rule or Rule()
        if rule.not_run:
            return f"not executed: {rule.not_run}"
        if rule.tested_by:
            return f"executed by {rule.tested_by}"
        what = "executed"
        if rule.replace:
            what += ", with " + ", ".join(f"{new} for {old}" for old, new in rule.replace.items())
        return what

    @property
    def runs_here(self) -> bool:
        """Whether tests/project/test_snippets.py executes it."""
        return self.rule is None or not (self.rule.tested_by or self.rule.not_run)

    @property
    def program(self) -> str:
        """The text that is executed."""
        text = self.snippet.text
        for old, new in ((self.rule.replace if self.rule else None) or {}).items():
            text = text.replace(old, new)
        return text


@cache
def load_rules() -> tuple[Rule, ...]:
    """Read tools/snippets.yaml.

    Raises:
        InputError: it is not valid.
    """
    return tuple(read_yaml(RULES, Rules, InputError).rules)


def pages(root: Path = ROOT) -> list[Path]:
    """The Markdown pages of the project."""
    found = [path for glob in GLOBS for path in sorted(root.glob(glob))]
    return [path for path in found if "_build" not in path.parts]


def snippets_of(page: Path, root: Path = ROOT) -> Iterator[Snippet]:
    """The snippets of ``page``, in order."""
    name = page.relative_to(root).as_posix()
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block") and token.map is not None:
            first = token.map[0] + (2 if token.type == "fence" else 1)
            yield from _in_block(token, name, first)


def _in_block(token: Token, page: str, first: int) -> Iterator[Snippet]:
    language = token.info.split()[0].lower() if token.info.strip() else ""
    if language in ("python", "py"):
        yield Snippet(page, first, "python", token.content.rstrip())
    elif language in SHELLS or (not language and _is_shell(token.content)):
        for offset, command in commands_of(token.content):
            yield Snippet(page, first + offset, "command", command)
    elif language and language not in DATA and not language.startswith("{"):
        raise InputError(
            f"{page}:{first}: expected a block of bash, python or data ({', '.join(sorted(DATA))}), got {language}"
        )


def _is_shell(block: str) -> bool:
    lines = [line for _, line in commands_of(block)]
    return bool(lines) and (all(map(PROGRAM.match, lines)) or any(map(OURS.match, lines)))


def commands_of(block: str) -> Iterator[tuple[int, str]]:
    """The commands of a block without their comments, each with the number of its first line in the block, from 0."""
    lines = iter(enumerate(block.splitlines()))
    for number, line in lines:
        command = COMMENT.sub("", line.removeprefix("$ ")).rstrip()
        while command.endswith("\\"):
            command += "\n" + COMMENT.sub("", next(lines)[1]).rstrip()
        if end := HEREDOC.search(command):
            for _, text in lines:
                command += "\n" + text
                if text.strip() == end[1]:
                    break
        if command:
            yield number, command


def rule_of(snippet: Snippet, rules: Sequence[Rule]) -> Rule | None:
    """The first rule that matches ``snippet``."""
    return next(
        (rule for rule in rules if fnmatchcase(snippet.page, rule.page) and fnmatchcase(snippet.text, rule.snippet)),
        None,
    )


def all_checked() -> list[Checked]:
    """Every snippet of every page."""
    rules = load_rules()
    return [Checked(snippet, rule_of(snippet, rules)) for page in pages() for snippet in snippets_of(page)]


def main() -> int:
    """Print the list, and how many snippets are executed here, elsewhere, and not at all."""
    checked = all_checked()
    for each in checked:
        where = f"{each.snippet.page}:{each.snippet.line}"
        sys.stdout.write(f"{where:38} {each.snippet.title}\n{'':38}     {each.how}\n")
    here = sum(each.runs_here for each in checked)
    not_run = sum(bool(each.rule and each.rule.not_run) for each in checked)
    sys.stdout.write(
        f"\n{len(checked)} snippets: {here} executed by {RUNNER}, {len(checked) - here - not_run} by other tests, "
        f"{not_run} not executed\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
