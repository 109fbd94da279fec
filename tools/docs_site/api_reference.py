"""The reference of the Python API: directives of autodoc for each public name."""

import importlib
import inspect

MODULES = ("atlas_model.api", "crawlers.api")


def api_reference() -> str:
    """Markdown with one heading per module and autodoc's directives below it."""
    return "\n".join(map(_module, MODULES))


def _module(name: str) -> str:
    module = importlib.import_module(name)
    lines = [f".. py:currentmodule:: {name}", ""]
    for public in module.__all__:
        value = getattr(module, public)
        kind = "autoclass" if inspect.isclass(value) else "autofunction" if inspect.isfunction(value) else "autodata"
        lines += [f".. {kind}:: {name}.{public}", *([] if kind != "autoclass" else ["   :members:"]), ""]
    return f"## {name}\n\n```{{eval-rst}}\n" + "\n".join(lines) + "\n```\n"
