"""``python -m tools.docs_site``: builds the documentation site in docs/_build/html."""

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

from atlas_model.core.errors import InputError
from tools.docs_site.pages import write_source

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "docs/_build"


def build(target: Path, *, jobs: str = "auto") -> int:
    """Write the source folder, and have Sphinx build the site from it; every warning is an error.

    Args:
        target: the folder of the build: ``source``, ``html`` and Sphinx's cache.
        jobs: number of processes that read and write pages.

    Returns:
        Exit code of Sphinx.
    """
    for name in ("source", "html", "cache"):  # a complete build takes seconds, and no page of an earlier one is left
        shutil.rmtree(target / name, ignore_errors=True)
    write_source(ROOT, target / "source")
    options = ["--quiet", "--fail-on-warning", "--keep-going", "--nitpicky", "--jobs", jobs]
    folders = ["--conf-dir", ROOT / "docs", "--doctree-dir", target / "cache", target / "source", target / "html"]
    return build_main([*options, *map(str, folders)])


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs_site", description="Builds the documentation site.")
    parser.add_argument("--output", type=Path, default=BUILD, metavar="DIR", help="default: docs/_build")
    target: Path = parser.parse_args().output
    try:
        failed = build(target)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    if not failed:
        sys.stdout.write(f"{target / 'html/index.html'}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
