"""The generated parts of the reference pages, by the name in their marker ``<!-- generated: NAME -->``."""

import re
from collections.abc import Callable

from tools.docs_site.api_reference import api_reference
from tools.docs_site.cli_reference import cli_reference
from tools.docs_site.params_reference import params_reference
from tools.docs_site.schema_reference import schema_reference
from tools.docs_site.snippet_reference import snippet_reference

MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
GENERATORS: dict[str, Callable[[], str]] = {
    "params": params_reference,
    "cli": cli_reference,
    "schemas": schema_reference,
    "api": api_reference,
    "snippets": snippet_reference,
}


def filled(text: str) -> str:
    """``text`` with its markers replaced by what they name."""
    return MARKER.sub(lambda marker: GENERATORS[marker[1]](), text)
