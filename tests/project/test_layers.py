"""The house rules that a tool can check."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MODULES = sorted(path for package in ("atlas_model", "crawlers", "flows") for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 400
ONE_PER_COMMAND = (ROOT / "flows/cli",)  # packages with a module per command, whose names say what they do

# What may stand in no module, with the reason.
FORBIDDEN = {
    r"\btorch\.load\((?![^\n]*weights_only=True\))": "unpickles: weights are safetensors, or loaded with weights_only",
    r"\ballow_pickle=(?!False)": "unpickles arrays of objects",
    r"(?<![.\w])(eval|exec)\(": "runs text",
    r"shell=True": "a child process gets a list of arguments",
    r"verify=False|ssl=False": "certificates are checked",
    r"\bprint\(": "results go through sys.stdout, words through progress.say",
    r"\b(TODO|FIXME|XXX|HACK)\b": "finish it or say in an issue what is missing",
}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_rules(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert text.startswith('"""'), "a module says what it does and what it does not know"
    assert len(text.splitlines()) <= MAX_LINES
    code = "\n".join(line for line in _without_docstrings(text).splitlines() if not line.lstrip().startswith("#"))
    for pattern, reason in FORBIDDEN.items():
        assert not re.search(pattern, code), f"{pattern}: {reason}"


def _without_docstrings(text: str) -> str:
    return re.sub(r'^\s*"""(.|\n)*?"""', "", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "package",
    [path.parent for path in MODULES if path.name == "__init__.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_docstring_that_names_a_module_names_all(package: Path) -> None:
    text = (package / "__init__.py").read_text(encoding="utf-8")
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    inner = {path.parent.name for path in package.glob("*/__init__.py")}
    missing = {name for name in modules | inner if f"`{name}`" not in text}
    assert not missing or missing == modules | inner or package in ONE_PER_COMMAND


def test_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_crawl_stage_imports_no_heavy_libraries() -> None:
    script = "import sys, flows.stages.crawl\nprint({'aiohttp', 'scrapy', 'torch', 'web_poet'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", "that is its child's work, which takes a second to begin as it is"
