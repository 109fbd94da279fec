"""What the documentation names exists: files, modules, links, anchors, parameters, commands.

Knows nothing of whether what a page says is true.
"""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.main import _parser
from tests.support.paths import ROOT
from tools.snippets import snippets_of

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "data/README.md",
    ROOT / "tests/crawlers/pages/saved/README.md",
    ROOT / "examples/README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts),
    *sorted((ROOT / "models").glob("*/README.md")),
]
FILES = [
    *PAGES,
    *(ROOT / name for name in ("params.yaml", "dvc.yaml", "prefect.yaml", "Makefile")),
    *sorted((ROOT / "benchmarks").glob("*/params.yaml")),
]
README_LINES = 120

CODE_FILE = re.compile(r"(?<![\w/.*<>{}-])((?:[\w.-]+/)+[\w-]+\.(?:py|yaml|toml|lock))(?![\w*<])")
MODULE_FILE = re.compile(r"`(\w+\.py)`")
DOTTED_NAME = re.compile(r"(?<![\w/.-])((?:atlas_model|crawlers|flows|tools|benchmarks|tests)(?:\.\w+)+)")
LINK = re.compile(r"(?:\[[^\]]*\]\(|<img src=\")([^)\s\"]+)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PARAMETER = re.compile(r"`(\w+(?:\.\w+)+)(?:: [^`]*)?`")
TARGET = re.compile(r"`make ([a-z][a-z-]*)\b|^ {4}make ([a-z][a-z-]*)\b", re.MULTILINE)
SUBCOMMAND = re.compile(r"(?:`|^ {4})atlas ([a-z][a-z-]*)\b", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", FILES, ids=name_of)
def test_code_files_named_exist(page: Path) -> None:
    missing = [
        name
        for name in CODE_FILE.findall(page.read_text(encoding="utf-8"))
        if name.partition("/")[0] in {path.name for path in ROOT.iterdir()} and not (ROOT / name).is_file()
    ]
    assert missing == []


@pytest.mark.parametrize("page", FILES, ids=name_of)
def test_modules_named_without_folder_exist(page: Path) -> None:
    names = MODULE_FILE.findall(page.read_text(encoding="utf-8"))
    assert [name for name in names if name not in _module_files()] == []


@cache
def _module_files() -> frozenset[str]:
    folders = ("atlas_model", "crawlers", "flows", "benchmarks", "tools", "tests")
    return frozenset(path.name for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("page", FILES, ids=name_of)
def test_dotted_names_exist(page: Path) -> None:
    names = DOTTED_NAME.findall(page.read_text(encoding="utf-8"))
    assert [name for name in names if not _exists(name)] == []


def _exists(dotted: str) -> bool:
    """Whether ``dotted`` is a module, a package, or a name at the top of a module."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        module = ROOT.joinpath(*parts[:length])
        if module.is_dir():
            return length == len(parts) or _defined(module / "__init__.py", parts[length])
        if module.with_suffix(".py").is_file():
            return length == len(parts) or _defined(module.with_suffix(".py"), parts[length])
    return False


@cache
def _names_in(module: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def _defined(module: Path, name: str) -> bool:
    return module.is_file() and name in _names_in(module)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_and_anchors_resolve(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            broken.append(target)
    assert broken == []


@cache
def _anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the headings of ``page``."""
    seen: dict[str, int] = {}
    found = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_parameters_named_are_in_params_yaml(page: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    missing = []
    for name in PARAMETER.findall(page.read_text(encoding="utf-8")):
        section, *keys = name.split(".")
        if section not in params or keys[-1] in {"parquet", "json", "csv", "md", "png", "py", "yaml"}:
            continue
        place = params[section]
        for key in keys:
            if not isinstance(place, dict) or key not in place:
                missing.append(name)
                break
            place = place[key]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {one or other for one, other in TARGET.findall(page.read_text(encoding="utf-8"))}
    commands = (snippet.text.split() for snippet in snippets_of(page) if snippet.text.startswith("make "))
    assert named | {command[1] for command in commands} <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_named_exist(page: Path) -> None:
    assert set(SUBCOMMAND.findall(page.read_text(encoding="utf-8"))) <= set(_subcommands())


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert [command for command in _subcommands() if f"atlas {command}" not in text] == []


def _subcommands() -> Iterator[str]:
    actions = [action for action in _parser()._actions if isinstance(action.choices, dict)]
    for action in actions:
        assert action.choices is not None
        yield from map(str, action.choices)


@pytest.mark.parametrize("package", ["atlas_model", "crawlers", "flows"])
def test_every_sub_package_is_in_the_code_layout(package: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    layout = text.partition("## Code layout")[2].partition("```")[2].partition("```")[0]
    section = re.split(r"^(?=\S)", layout.partition(f"{package}/")[2], flags=re.MULTILINE)[0]
    there = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert set(re.findall(r"(\w+)/(?= )", section)) == there


def test_readme_is_short_and_links_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    linked = {target.partition("#")[0] for target in LINK.findall(text)}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked
    for index in (ROOT / "docs").glob("*/index.md"):
        held = {target.partition("#")[0] for target in LINK.findall(index.read_text(encoding="utf-8"))}
        assert {page.name for page in index.parent.glob("*.md")} - {"index.md"} <= held, index


def test_headline_metrics_are_defined() -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    defined = set(re.findall(r"`(\w+)`", text))
    for file in (ROOT / "metrics").glob("*.json"):
        assert set(_keys(json.loads(file.read_text(encoding="utf-8")))) <= defined, file


def _keys(metrics: dict[str, Any]) -> Iterator[str]:
    for key, value in metrics.items():
        yield key
        if isinstance(value, dict):
            yield from _keys(value)
