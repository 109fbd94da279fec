"""The tests' own layout: folders mirror the packages, and test modules do not import each other."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
PACKAGES = ("atlas_model", "crawlers", "flows")
OTHERS = {"project", "system", "support", "faults"}  # rules of this repository, whole runs, helpers, faults
MAX_LINES = 400
MODULES = sorted(TESTS.rglob("*.py"))
HELPERS = sorted((TESTS / "support").glob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(TESTS))


def imported(module: Path) -> set[str]:
    """The modules that ``module`` imports, also in programs that it holds as text."""
    trees = [ast.parse(module.read_text(encoding="utf-8"))]
    for node in ast.walk(trees[0]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            try:
                trees.append(ast.parse(node.value))
            except SyntaxError:
                continue
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_folders_mirror_packages() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    assert folders == {*PACKAGES, *OTHERS}
    for module in MODULES:
        folder = module.parent.relative_to(TESTS)
        if folder.parts and folder.parts[0] in PACKAGES:
            assert (ROOT / folder / "__init__.py").is_file(), f"{name_of(module)}: there is no package {folder}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_sub_package_has_tests(package: str) -> None:
    sub_packages = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert {name for name in sub_packages if not any((TESTS / package / name).glob("test_*.py"))} == set()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_programs_in_strings_import_what_exists(module: Path) -> None:
    """A child program that fails at its import can look like the failure that a test expects."""
    for name in imported(module):
        if name.startswith(tuple(f"{package}." for package in PACKAGES)):
            where, _, what = name.rpartition(".")
            assert hasattr(importlib.import_module(where), what) or importlib.import_module(name), name


def test_all_modules_are_tests_or_support() -> None:
    wrong = [
        name_of(module)
        for module in MODULES
        if module.parent.name != "support" and not module.name.startswith("test_") and module.name != "conftest.py"
    ]
    assert wrong == []


def test_system_tests_are_slow() -> None:
    """So that `make fast` runs no whole pipeline."""
    for module in (TESTS / "system").glob("test_*.py"):
        text = module.read_text(encoding="utf-8")
        of_module = re.search(r"^pytestmark = .*mark\.slow", text, re.MULTILINE)
        tests = [node for node in ast.parse(text).body if getattr(node, "name", "").startswith("test_")]
        unmarked = [
            node.name
            for node in tests
            if isinstance(node, ast.FunctionDef) and "pytest.mark.slow" not in map(ast.unparse, node.decorator_list)
        ]
        assert of_module or unmarked == [], module.name


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_modules_import_helpers_from_support_only(module: Path) -> None:
    assert {name for name in imported(module) if name.startswith("tests.") and name.split(".")[1] != "support"} == set()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_modules_are_short_and_say_what_they_test(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("module", HELPERS, ids=name_of)
def test_public_helpers_have_docstrings(module: Path) -> None:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    missing = [
        node.name
        for node in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(node, definitions) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert missing == []


@pytest.mark.parametrize("module", HELPERS, ids=name_of)
def test_public_helpers_are_used_by_another_module(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    others = [path.read_text(encoding="utf-8") for path in MODULES if path != module]
    name = f"tests.support.{module.stem}"
    used_by = [other for other in others if name in other]
    assert used_by, f"{name} is imported nowhere"
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            is_used = any(node.name in other for other in used_by) or text.count(node.name) > 1
            assert is_used, f"{name}.{node.name} is dead code"
