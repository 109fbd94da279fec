"""Compare the `deps` of each stage in dvc.yaml with the modules of ours that the stage really imports.

DVC does not see imports: a stage whose `deps` miss an imported file stays "up to date" after an edit of it.
`python -m tools.stage_imports` prints what is missing and what is superfluous; a test runs the same comparison.

A module that is started as a child process counts as imported where its dotted name stands as a string
(``[sys.executable, "-m", "crawlers.shop"]``).
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("atlas_model", "crawlers", "flows")

# Modules that no stage depends on, each with the reason. Modules that hold a docstring only are left out as well.
EXEMPT = {
    "atlas_model.core.errors": "texts for people",
    "atlas_model.core.progress": "lines for people",
    "atlas_model.core.processes": "who ends whom",
    "atlas_model.core.params": "checks values that DVC compares by itself, key by key",
    "atlas_model.core.param_types": "likewise",
    "atlas_model.core.encoder_names": "names, which `encoder` gives a meaning to",
    "atlas_model.core.yaml_files": "checks what a file says, and changes nothing of it",
    "atlas_model.core.extras": "says what is not installed",
    "flows": "switches telemetry off",
    "flows.parallel": "who does the parts of the work, as the next two: the same comes of them whoever it is",
    "flows.prefect_app.cluster": "see above",
    "flows.prefect_app.server": "see above",
    "flows.stages": "who ends whom",
    "flows.stages.entry": "exit codes and the form of the metrics",
    "flows.prefect_app.log_relay": "lines for people",
    "flows.text": "lines for people",
    "flows.prefect_app.shell_run": "shows people what happens",
    "flows.dvc.pipeline_lock": "who waits for whom",
    "flows.prefect_app.reporter": "shows people what happens",
    "flows.stages.parameters": "checks values that DVC compares by itself, key by key",
    "flows.paths": "says what dvc.yaml says; a test compares",
}


@dataclass(frozen=True)
class Difference:
    """What a stage's `deps` should be told: paths relative to the project's root, sorted."""

    missing: list[str]
    superfluous: list[str]


def stage_names() -> list[str]:
    """The stages of dvc.yaml, in its order."""
    return list(_dvc_yaml()["stages"])


def difference(stage: str) -> Difference:
    """How the declared `deps` of ``stage`` differ from its imports; a folder covers the modules below it."""
    imported = {_path_of(module) for module in imported_modules(f"flows.stages.{stage}")}
    deps = _dvc_yaml()["stages"][stage].get("deps", [])
    declared = {dep for dep in deps if Path(dep).parts[0] in PACKAGES}
    return Difference(
        missing=sorted(path for path in imported if not any(_covers(dep, path) for dep in declared)),
        superfluous=sorted(dep for dep in declared if not any(_covers(dep, path) for path in imported)),
    )


def imported_modules(module: str) -> set[str]:
    """``module`` and all modules of ours that running it imports or starts, without the exempt ones."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        named = _graph().find_modules_directly_imported_by(name) | set(_modules_named_in_strings(name))
        parents = {name.rpartition(".")[0]} - {""}  # importing a.b runs a/__init__.py first
        waiting |= (named | parents) - found
    return {name for name in found if name not in EXEMPT and not _is_docstring_only(name)}


@cache
def _dvc_yaml() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    return content


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse((ROOT / _path_of(module)).read_text(encoding="utf-8"))


def _modules_named_in_strings(module: str) -> Iterator[str]:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield from {node.value, f"{node.value}.__main__"} & _graph().modules


def _is_docstring_only(module: str) -> bool:
    body = _tree(module).body
    return not body or (len(body) == 1 and ast.get_docstring(_tree(module)) is not None)


def _path_of(module: str) -> str:
    path = Path(*module.split("."))
    inside = path / "__init__.py"
    return (inside if (ROOT / inside).is_file() else path.with_suffix(".py")).as_posix()


def _covers(dep: str, path: str) -> bool:
    return Path(path).is_relative_to(dep)


def main() -> int:
    """Print the differences; 1 if there are any."""
    different = False
    for stage in stage_names():
        if not (ROOT / f"flows/stages/{stage}.py").is_file():
            print(f"{stage}: flows/stages/{stage}.py does not exist")
            continue
        found = difference(stage)
        different |= bool(found.missing or found.superfluous)
        print(f"{stage}: {'deps differ' if found.missing or found.superfluous else 'ok'}")
        for sign, paths in (("add", found.missing), ("remove", found.superfluous)):
            for path in paths:
                print(f"  {sign} {path}")
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
