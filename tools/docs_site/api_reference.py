"""The reference of the Python API: directives of autodoc for each public name."""

import importlib
import inspect
from typing import get_args

MODULES = ("atlas_model.api", "crawlers.api")


def api_reference() -> str:
    """Markdown with one heading per module and autodoc's directives below it."""
    return "\n".join(map(_module, MODULES))


def _module(name: str) -> str:
    module = importlib.import_module(name)
    lines = [f".. py:currentmodule:: {name}", ""]
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) and not get_args(value):
            lines += [f".. autoclass:: {name}.{public}", "   :members:", ""]
        elif inspect.isfunction(value):
            lines += [f".. autofunction:: {name}.{public}", ""]
        else:
            lines += [f".. py:data:: {name}.{public}", "", f"   The type ``{value}``.", ""]
    return f"## {name}\n\n```{{eval-rst}}\n" + "\n".join(lines) + "\n```\n"
