"""The source folder that Sphinx reads: our Markdown pages, with links as the site needs them.

A link to another page stays a link to that page. A link to a file of the project leads to a page that shows the file,
because the site has to work without a code host. A link to a folder leads to its README.md or to a list of its files.
"""

import os
import re
import shutil
from pathlib import Path

from atlas_model.core.errors import InputError
from tools.docs_site.navigation import contents
from tools.docs_site.reference import filled

PROJECT = {  # pages outside docs/ -> their names on the site
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "data/README.md": "project/demo-data.md",
    "examples/README.md": "project/examples.md",
    "tests/crawlers/pages/saved/README.md": "project/saved-pages.md",
}
FILES = "files"  # folder of the pages that show files
SKIPPED = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<before>\]\(|src=\")(?P<target>[^)\s\"]+)(?P<after>[)\"])")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
IMAGES = {".png", ".svg", ".jpg", ".webp"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".sh": "bash", ".csv": "text"}
MAX_SHOWN_BYTES = 200_000


def write_source(root: Path, target: Path) -> None:
    """Write the source folder of the site.

    Args:
        root: the project.
        target: the folder to write; it does not exist yet.

    Raises:
        InputError: a link leads to nothing.
    """
    site = _Site(root)
    written = {name: site.page(name) for name in site.pages}
    written |= {name: site.file_page(name) for name in sorted(site.shown)}
    if site.broken:
        raise InputError("links that lead to nothing:\n" + "\n".join(f"  - {link}" for link in site.broken))
    for name, text in written.items():
        _ready(target / site.place(name)).write_text(text, encoding="utf-8")
    for name, place in site.images.items():
        shutil.copy2(root / name, _ready(target / place))


def _ready(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


class _Site:
    """The pages of the project and where they are on the site."""

    def __init__(self, root: Path) -> None:
        self.root = root
        cards = {f"models/{path.parent.name}/README.md" for path in root.glob("models/*/README.md")}
        own = [path.relative_to(root).as_posix() for path in root.glob("docs/**/*.md") if "_build" not in path.parts]
        self.pages = {name: self._name(name) for name in [*sorted(own), *PROJECT, *sorted(cards)]}
        self.shown: dict[str, str] = {}  # file or folder of the project -> the page that shows it
        self.images: dict[str, str] = {}
        self.broken: list[str] = []

    @staticmethod
    def _name(name: str) -> str:
        if name.startswith("docs/"):
            return name.removeprefix("docs/")
        if name.startswith("models/"):
            return f"project/model-{Path(name).parent.name}.md"
        return PROJECT[name]

    def place(self, name: str) -> str:
        """Where ``name``, a page or a shown file, is in the source folder."""
        return self.pages.get(name) or self.shown[name]

    def page(self, name: str) -> str:
        """The text of a page, with the site's links, the generated parts and the table of contents."""
        text = FRONT_MATTER.sub("", (self.root / name).read_text(encoding="utf-8"))
        text = filled(self._linked(name, text))
        return text + contents(self.pages[name], self._links_of(name), frozenset(self.pages.values()))

    def _links_of(self, name: str) -> list[str]:
        """The pages that a page links to, in order, by their places on the site."""
        text = (self.root / name).read_text(encoding="utf-8")
        found = [self._resolve(name, link["target"]) for link in LINK.finditer(SKIPPED.sub("", text))]
        return [self.pages[page] for page in dict.fromkeys(found) if page in self.pages]

    def _resolve(self, page: str, target: str) -> str | None:
        """The path in the project that ``target`` leads to; None: elsewhere, or inside the page."""
        path = target.partition("#")[0]
        if re.match(r"[a-z]+:", target) or not path:
            return None
        path = os.path.normpath(os.path.join(os.path.dirname(page), path))  # noqa: PTH118, PTH120  # no file system
        readme = f"{path}/README.md"
        return readme if readme in self.pages else path

    def _linked(self, page: str, text: str) -> str:
        parts = SKIPPED.split(text)
        return "".join(part if number % 2 else self._replace(page, part) for number, part in enumerate(parts))

    def _replace(self, page: str, text: str) -> str:
        def replaced(link: re.Match[str]) -> str:
            return link["before"] + self._target(page, link["target"]) + link["after"]

        return LINK.sub(replaced, text)

    def _target(self, page: str, target: str) -> str:
        path = self._resolve(page, target)
        if path is None:
            return target
        anchor = target.partition("#")[2]
        if not (self.root / path).exists():
            self.broken.append(f"{page}: {target}")
            return target
        if Path(path).suffix in IMAGES:
            to = self.images.setdefault(path, path.removeprefix("docs/"))
        elif path in self.pages:
            to = self.pages[path]
        else:
            to = self.shown.setdefault(path, f"{FILES}/{path}.md")
        relative = os.path.relpath(to, os.path.dirname(self.place(page)) or ".")  # noqa: PTH120  # likewise
        return f"{relative}#{anchor}" if anchor else relative

    def file_page(self, name: str) -> str:
        """A page that shows a file, or lists the files of a folder."""
        path = self.root / name
        head = f"---\norphan: true\nnosearch: true\n---\n\n# {name}\n\n"
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if not file.name.startswith((".", "__pycache__")))
            return head + "\n".join(f"- `{file.name}{'/' if file.is_dir() else ''}`" for file in files) + "\n"
        content = path.read_bytes()
        if len(content) > MAX_SHOWN_BYTES or b"\0" in content:
            return head + f"A file of {len(content):,} bytes, in the repository at `{name}`.\n"
        text = content.decode("utf-8", errors="replace")
        fence = "`" * max(3, *(len(run) + 1 for run in [*re.findall(r"`+", text), ""]))
        return head + f"{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"
