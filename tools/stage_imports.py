"""Compares the `deps` of each stage in dvc.yaml with the modules of this project that the stage imports.

DVC does not track imports: a stage whose `deps` lack an imported file stays "up to date" after an edit of that file.
`python -m tools.stage_imports` prints missing and superfluous `deps`; a test runs the same comparison.

A module that is started as a child process counts as imported if its dotted name is a string literal
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

# Modules that are not in `deps`, each with the reason. Modules that contain only a docstring are not in `deps` either.
# Other files of a package, such as style sheets, are not compared: no import names them.
EXEMPT = {
    "atlas_model.core.errors": "error messages",
    "atlas_model.core.machine": "reports errors of the machine, which end a stage",
    "atlas_model.core.progress": "progress messages",
    "atlas_model.core.processes": "ends child processes with their parent",
    "atlas_model.core.params": "validates parameters, which DVC compares key by key",
    "atlas_model.core.param_sections.types": "see above",
    "atlas_model.core.param_sections.report": "see above",
    "atlas_model.core.param_sections.quality": "see above",
    "atlas_model.core.encoder_names": "names of encoders, implemented in `encoder`",
    "atlas_model.core.yaml_files": "validates YAML files without changing their values",
    "atlas_model.core.extras": "reports packages that are not installed",
    "flows": "disables telemetry",
    "flows.parallel": "threads or a cluster: the results are the same",
    "flows.prefect_app.cluster": "see above",
    "flows.prefect_app.server": "see above",
    "flows.stages": "ends a stage with its DVC process",
    "flows.stages.entry": "exit codes and the format of the metrics",
    "flows.prefect_app.ui.log_relay": "log messages",
    "flows.text": "escapes text for output",
    "flows.prefect_app.shell_run": "reports to Prefect's UI",
    "flows.dvc.pipeline_lock": "a lock",
    "flows.dvc.ended_stages": "a complete result is the same, whether made again or kept",
    "flows.prefect_app.ui.reporter": "reports to Prefect's UI",
    "flows.stages.parameters": "validates parameters, which DVC compares key by key",
    "flows.paths": "paths of dvc.yaml, which a test compares",
}


@dataclass(frozen=True)
class Difference:
    """Corrections of the `deps` of a stage: sorted paths relative to the root of the project."""

    missing: list[str]
    superfluous: list[str]


def stage_names() -> list[str]:
    """The stages of dvc.yaml, in their order."""
    return list(_dvc_yaml()["stages"])


def difference(stage: str) -> Difference:
    """The differences between the `deps` and the imports of ``stage``; a folder covers the modules in it."""
    imported = {_path_of(module) for module in imported_modules(f"flows.stages.{stage}")}
    deps = _dvc_yaml()["stages"][stage].get("deps", [])
    declared = {dep for dep in deps if Path(dep).parts[0] in PACKAGES and Path(dep).suffix in {"", ".py"}}
    return Difference(
        missing=sorted(path for path in imported if not any(_covers(dep, path) for dep in declared)),
        superfluous=sorted(dep for dep in declared if not any(_covers(dep, path) for path in imported)),
    )


def imported_modules(module: str) -> set[str]:
    """``module`` and all modules of this project that it imports or starts, without those in `EXEMPT`."""
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
    """Print the differences; returns 1 if there are any."""
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
