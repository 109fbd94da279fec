"""Tests test this checkout: child processes import it, wherever they start and whatever checkout is installed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import atlas_model
import crawlers
import flows
from tests.support.flow_projects import environment
from tests.support.paths import ROOT

WHERE = """
import json
import atlas_model, crawlers, flows
print(json.dumps([module.__file__ for module in (atlas_model, crawlers, flows)]))
"""
HERE = [str(ROOT / name / "__init__.py") for name in ("atlas_model", "crawlers", "flows")]


def test_imports_of_this_process_are_of_this_checkout() -> None:
    assert [module.__file__ for module in (atlas_model, crawlers, flows)] == HERE


@pytest.mark.parametrize("how", ["program", "script", "module", "shell"])
def test_children_in_another_folder_import_this_checkout(how: str, tmp_path: Path) -> None:
    (tmp_path / "where.py").write_text(WHERE)
    command = {
        "program": [sys.executable, "-c", WHERE],
        "script": [sys.executable, "where.py"],
        "module": [sys.executable, "-m", "where"],
        "shell": ["/bin/sh", "-c", "exec python where.py"],  # as DVC runs stages
    }[how]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == HERE


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "flows.cli.main", "--version"],
        [str(Path(sys.executable).with_name("atlas")), "--version"],
    ],
    ids=["module", "command"],
)
def test_commands_in_another_folder_are_of_this_checkout(command: list[str], tmp_path: Path) -> None:
    env = environment(PYTHONVERBOSE="1")  # says of each module where it comes from
    done = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert set(re.findall(r"[^\s']+(?=/flows/(?:cli/main|__init__)\.py)", done.stderr)) == {str(ROOT)}


def test_copy_of_the_project_imports_itself(tmp_path: Path) -> None:
    """Stages of a copied project are the copy's: the current folder comes before the checkout."""
    (tmp_path / "crawlers").mkdir()
    (tmp_path / "crawlers/__init__.py").touch()
    program = "import crawlers; print(crawlers.__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "crawlers/__init__.py")
