"""Reads taxonomies from text, CSV of paths, or CSV of nodes. Reports all errors at once, with line numbers.

The first line decides which of three formats a file has:

- plain text, one path a line: ``Animals > Live Animals``; ``#`` starts a comment. Each line may begin with an id, as in
  Google's product taxonomy (``123 - Animals``) and Shopify's (``gid://shopify/TaxonomyCategory/ap : Animals``);
- CSV with a column ``taxonomy`` (any capitals), and maybe a column ``id``; other columns are ignored;
- CSV with the columns ``id, parent_id, name``: one node per row; every node without children is a path.

Levels are separated by ``->`` or ``>``, or by ``/`` in a file that has neither. Names are normalised by
`names.clean_name`.

In plain text and CSV of paths each line is a path, so an inner node with a line of its own is a path too.
"""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from atlas_model.core.errors import TaxonomyError
from atlas_model.taxonomy.names import LEVEL_SEPARATOR, clean_name
from atlas_model.taxonomy.tree import CategoryPath, Taxonomy

ARROWS = re.compile(r"\s*-?>\s*")
NODE_COLUMNS = {"id", "parent_id", "name"}
# https://www.google.com/basepages/producttype/taxonomy-with-ids.en-US.txt;
# https://github.com/Shopify/product-taxonomy/blob/main/dist/en/categories.txt
LINES_WITH_IDS = (
    re.compile(r"\s*(\d+) - (.+)"),
    re.compile(r"\s*(gid://shopify/TaxonomyCategory/\S+)\s*:\s+(.+)"),
)


@dataclass
class _Read:
    """What was read from a file."""

    lines: list[tuple[int, CategoryPath]]  # number and path of each line; of CSV of nodes: the paths that end there
    ids: dict[CategoryPath, str] = field(default_factory=dict)  # of nodes


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
        read = _read(text, faults)
    except csv.Error as error:
        raise TaxonomyError(f"{path}: it is not CSV: {error}") from error
    paths = _without_faults(read.lines, faults)
    if not read.lines and not faults:
        faults.append("it is empty: at least one category path is needed")
    if faults:
        raise TaxonomyError.from_faults(str(path), faults)
    return Taxonomy(paths, ids=read.ids)


def _read(text: str, faults: list[str]) -> _Read:
    header = [cell.strip().lower() for cell in next(csv.reader(io.StringIO(text)), [])]
    if set(header) >= NODE_COLUMNS:
        return _read_nodes(text, faults)
    if "taxonomy" in header:
        lines = _split(_column(text, header.index("taxonomy")))
        return _with_ids(lines, _column(text, header.index("id")) if "id" in header else [], faults)
    plain = _plain_lines(text)
    for pattern in LINES_WITH_IDS:
        found = [pattern.fullmatch(line) for _, line in plain]
        if plain and all(found):
            numbered = [(number, match) for (number, _), match in zip(plain, found, strict=True) if match]
            lines = _split([(number, match[2]) for number, match in numbered])
            return _with_ids(lines, [(number, match[1]) for number, match in numbered], faults)
    if len(header) > 1 and plain and ">" not in plain[0][1] and any(">" in line for _, line in plain):
        faults.append(f"line 1: expected a column taxonomy, or id, parent_id and name; got {', '.join(header)}")
    return _Read(_split(plain))


def _with_ids(lines: list[tuple[int, CategoryPath]], ids: list[tuple[int, str]], faults: list[str]) -> _Read:
    """The lines with the ids of the same lines; an empty id is none."""
    first_line: dict[str, int] = {}
    read = _Read(lines)
    for (number, path), (_, text) in zip(lines, ids, strict=False):
        node_id = text.strip()
        if node_id in first_line:
            faults.append(f"line {number}: id {node_id!r} is on line {first_line[node_id]} already")
        elif node_id:
            first_line[node_id] = number
            read.ids[path] = node_id
    return read


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


def _read_nodes(text: str, faults: list[str]) -> _Read:
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
        return _Read([])
    ends = [(nodes[leaf][0], _ancestry(leaf, nodes)) for leaf in nodes if leaf not in parents]
    return _Read(ends, {_ancestry(identity, nodes): identity for identity in nodes})


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
