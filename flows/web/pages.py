"""Templates and static files of the pages."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent
STYLE = FOLDER / "static/atlas.css"


def templates(folder: Path) -> Environment:
    """The templates in ``folder``, which may extend ``base.html``; values are escaped, missing ones are errors.

    Args:
        folder: the folder of the templates of one page.
    """
    return Environment(
        loader=FileSystemLoader([folder, FOLDER / "templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def static_files(folder: Path | None = None) -> StaticFiles:
    """The files in ``folder`` as an application; None: those that all pages share, such as ``atlas.css``."""
    return StaticFiles(directory=folder or FOLDER / "static")
