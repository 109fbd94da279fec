"""Reads taxonomies from text, CSV of paths, or CSV of nodes. Reports all errors at once, with line numbers.

The first line decides which of three formats a file has:

- plain text, one path a line (Google's product taxonomy): ``Animals > Live Animals``; ``#`` starts a comment;
- CSV with a column ``taxonomy`` (any capitals); other columns are ignored;
- CSV with the columns ``id, parent_id, name``: one node per row; every node without children is a path.

Levels are separated by ``->`` or ``>``, or by ``/`` in a file that has neither. Names are normalised by
`names.clean_name`.

In plain text and CSV of paths each line is a path, so an inner node with a line of its own is a path too.
"""

import csv
import io
import re
from pathlib import Path

from atlas_model.core.errors import TaxonomyError
from atlas_model.taxonomy.names import LEVEL_SEPARATOR, clean_name
from atlas_model.taxonomy.tree import CategoryPath, Taxonomy

ARROWS = re.compile(r"\s*-?>\s*")
NODE_COLUMNS = {"id", "parent_id", "name"}


def split_path(text: str, *, slashes: bool = False) -> CategoryPath:
    """Split ``"A->B > C"`` into ``("A", "B", "C")``; empty levels are kept, for the caller to reject."""
    parts = text.split("/") if slashes else ARROWS.split(text)
    return tuple(map(clean_name, parts))


def load_taxonomy(path: Path) -> Taxonomy:
    """Read the taxonomy at ``path``.

    Raises:
        TaxonomyError: the file is unreadable, not UTF-8, empty, or has invalid lines; the message lists all of them.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaxonomyError(f"{path}: expected UTF-8, got something else at byte {error.start}") from error
    except OSError as error:
        raise TaxonomyError(f"{path}: cannot be read: {error.strerror}") from error
    faults: list[str] = []
    try:
        lines = _read_lines(text, faults)
    except csv.Error as error:
        raise TaxonomyError(f"{path}: it is not CSV: {error}") from error
    paths = _without_faults(lines, faults)
    if not lines and not faults:
        faults.append("it is empty: at least one category path is needed")
    if faults:
        raise TaxonomyError.from_faults(str(path), faults)
    return Taxonomy(paths)


def _read_lines(text: str, faults: list[str]) -> list[tuple[int, CategoryPath]]:
    header = [cell.strip().lower() for cell in next(csv.reader(io.StringIO(text)), [])]
    if set(header) >= NODE_COLUMNS:
        return _paths_of_nodes(text, faults)
    if "taxonomy" in header:
        return _split(_column(text, header.index("taxonomy")))
    lines = _plain_lines(text)
    if len(header) > 1 and ">" not in lines[0][1] and any(">" in line for _, line in lines):
        faults.append(f"line 1: expected a column taxonomy, or id, parent_id and name; got {', '.join(header)}")
    return _split(lines)


def _plain_lines(text: str) -> list[tuple[int, str]]:
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]


def _column(text: str, column: int) -> list[tuple[int, str]]:
    reader = csv.reader(io.StringIO(text))
    next(reader)
    return [(reader.line_num, row[column] if len(row) > column else "") for row in reader if any(row)]


def _split(lines: list[tuple[int, str]]) -> list[tuple[int, CategoryPath]]:
    slashes = not any(">" in line for _, line in lines)
    return [(number, split_path(line, slashes=slashes)) for number, line in lines]


def _without_faults(lines: list[tuple[int, CategoryPath]], faults: list[str]) -> list[CategoryPath]:
    first_line: dict[CategoryPath, int] = {}
    for number, path in lines:
        if not all(path):
            faults.append(f"line {number}: a level is empty in {' > '.join(path)!r}")
        elif path in first_line:
            faults.append(f"line {number}: {' > '.join(path)!r} is on line {first_line[path]} already")
        else:
            first_line[path] = number
    return list(first_line)


def _paths_of_nodes(text: str, faults: list[str]) -> list[tuple[int, CategoryPath]]:
    nodes: dict[str, tuple[int, str, str]] = {}  # id -> line, parent, name
    reader = csv.DictReader(io.StringIO(text))
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    for row in reader:
        identity = (row["id"] or "").strip()
        if not identity:
            faults.append(f"line {reader.line_num}: id is empty")
        elif identity in nodes:
            faults.append(f"line {reader.line_num}: id {identity!r} is on line {nodes[identity][0]} already")
        else:
            nodes[identity] = (reader.line_num, (row["parent_id"] or "").strip(), clean_name(row["name"] or ""))
    parents = {parent for _, parent, _ in nodes.values()}
    for number, parent, _ in nodes.values():
        if parent and parent not in nodes:
            faults.append(f"line {number}: parent_id {parent!r} is no row's id")
    for number, _, name in nodes.values():
        if LEVEL_SEPARATOR in name:
            faults.append(f"line {number}: {LEVEL_SEPARATOR} separates levels and cannot be in a name; rename {name!r}")
    on_cycle = _nodes_on_cycles(nodes)
    if on_cycle:
        lines = ", ".join(str(nodes[identity][0]) for identity in on_cycle)
        faults.append(f"lines {lines}: cycle: each of these ids is its own ancestor")
    if faults:
        return []
    leaves = [identity for identity in nodes if identity not in parents]
    return [(nodes[leaf][0], _ancestry(leaf, nodes)) for leaf in leaves]


def _nodes_on_cycles(nodes: dict[str, tuple[int, str, str]]) -> list[str]:
    done: set[str] = set()
    on_cycle: list[str] = []
    for start in nodes:
        trail: dict[str, None] = {}  # ordered
        node = start
        while node in nodes and node not in done and node not in trail:
            trail[node] = None
            node = nodes[node][1]
        if node in trail:
            order = list(trail)
            on_cycle += order[order.index(node) :]
        done |= trail.keys()
    return on_cycle


def _ancestry(leaf: str, nodes: dict[str, tuple[int, str, str]]) -> CategoryPath:
    names = []
    node = leaf
    while node:
        _, parent, name = nodes[node]
        names.append(name)
        node = parent
    return tuple(reversed(names))
