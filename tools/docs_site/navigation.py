"""The table of contents: an index page holds the pages that it links to, in their order.

The index pages are ordinary Markdown, so that they are readable on a code host, too. A page that no index page holds is
an error of the build.
"""

from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

ROOT_INDEX = "index.md"
SECTIONS = ("tutorials/index.md", "how-to/index.md", "reference/index.md", "explanation/index.md", "project/index.md")
# Pages that the index page holds, whether it links to them yet or not.
HELD: dict[str, tuple[str, ...]] = {
    "how-to/index.md": (
        "data-quality.md",
        "containers.md",
    ),
}


def contents(page: str, links: Sequence[str], pages: Collection[str]) -> str:
    """The hidden table of contents of an index page, as Markdown; empty for other pages.

    Args:
        page: its place on the site.
        links: the pages that it links to, in order.
        pages: all pages of the site.
    """
    if page == ROOT_INDEX:
        held = [section for section in SECTIONS if section in pages]
    elif page in SECTIONS:
        others = {ROOT_INDEX, *SECTIONS}
        named = [link for link in links if link not in others]
        held = list(dict.fromkeys([*named, *(name for name in HELD.get(page, ()) if name in pages)]))
    else:
        return ""
    names = "\n".join("/" + str(PurePosixPath(name).with_suffix("")) for name in held)
    return f"\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
