"""Changes between two versions of a taxonomy: categories that were renamed, merged, split or removed.

The file is CSV with the columns ``from`` and ``to``: paths, or ids of the taxonomy's nodes. A row holds for a node and
everything below it, unless a row names a node further down.

- One row with this ``from`` and this ``to``: the node was renamed or moved.
- Several rows with the same ``to``: these nodes were merged.
- Several rows with the same ``from``: the node was split, so someone has to decide about each of its products. It may
  be among its own successors.
- An empty ``to``: the node was removed.

Rows form chains: after ``A,B`` and ``B,C``, A is C. So rows of the next version are appended, and labels of any earlier
version are understood.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from atlas_model.core.errors import TaxonomyError
from atlas_model.taxonomy.files import split_path
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath, Taxonomy

COLUMNS = ("from", "to")


class TaxonomyChanges:
    """The rows of a file of changes.

    Args:
        successors: of each node in the column ``from``; empty if it was removed.
    """

    def __init__(self, successors: Mapping[CategoryPath, tuple[CategoryPath, ...]]) -> None:
        self.successors = dict(successors)
        targets = Counter(new for found in successors.values() for new in found)
        self._former = {found[0]: old for old, found in successors.items() if len(found) == 1 == targets[found[0]]}

    def __bool__(self) -> bool:
        return bool(self.successors)

    def now(self, path: CategoryPath) -> tuple[CategoryPath, ...]:
        """What ``path`` is today: itself, its new path, several paths if it was split, or none if it was removed."""
        return tuple(dict.fromkeys(self._now(path, frozenset())))

    def former(self, path: CategoryPath) -> CategoryPath:
        """The first name of ``path``, if it only was renamed since; else ``path``."""
        used: set[CategoryPath] = set()
        while (new := _longest_prefix(path, self._former, used)) is not None:
            used.add(new)
            path = self._former[new] + path[len(new) :]
        return path

    def apply(self, taxonomy: Taxonomy) -> Taxonomy:
        """The taxonomy of today: each path replaced by what it is now, in the same order, with keys and ids.

        A taxonomy that is of today already keeps its paths. Keys (`Taxonomy.keys`) are set if the nodes of the result
        correspond one to one to their first names; otherwise no weights can be kept, and there are no keys.

        Raises:
            TaxonomyError: no path is left.
        """
        paths = list(dict.fromkeys(new for path in taxonomy.paths for new in self.now(path)))
        ids = {node: node_id for node, node_id in taxonomy.ids.items() if self.now(node) == (node,)}
        for node, node_id in taxonomy.ids.items():
            if len(found := self.now(node)) == 1:
                ids.setdefault(found[0], node_id)
        try:
            return Taxonomy(paths, keys=[self.former(path) for path in paths], ids=ids)
        except TaxonomyError:
            return Taxonomy(paths, ids=ids)

    def _now(self, path: CategoryPath, used: frozenset[CategoryPath]) -> Iterable[CategoryPath]:
        old = _longest_prefix(path, self.successors, used)
        if old is None:
            return (path,)
        found = self.successors[old]
        if old not in found and any(len(new) > len(old) and path[: len(new)] == new for new in found):
            return (path,)  # A was moved to A > B, and this is A > B > ... already
        after = used | {old}
        new_paths = [new + path[len(old) :] for new in found]
        return [last for new in new_paths for last in ((path,) if new == path else self._now(new, after))]


NO_CHANGES = TaxonomyChanges({})


def load_changes(path: Path, taxonomy: Taxonomy | None) -> TaxonomyChanges:
    """Read the changes at ``path``.

    Args:
        path: CSV; only a header: there are no changes.
        taxonomy: its ids may be used in the file; None: only paths.

    Raises:
        TaxonomyError: the file is unreadable or invalid; the message lists all faults.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaxonomyError(f"{path}: expected UTF-8, got something else at byte {error.start}") from error
    except OSError as error:
        raise TaxonomyError(f"{path}: cannot be read: {error.strerror}") from error
    node_of = {node_id: node for node, node_id in taxonomy.ids.items()} if taxonomy else {}
    faults: list[str] = []
    found: dict[CategoryPath, list[CategoryPath]] = {}
    try:
        for number, old, new in _rows(text, faults):
            read = [node_of.get(cell) or split_path(cell) if cell else () for cell in (old, new)]
            if not read[0] or not all(map(all, read)):
                faults.append(
                    f"line {number}: expected a path in from, and a path or nothing in to; got {old!r}, {new!r}"
                )
            elif read[1] in found.setdefault(read[0], []):
                faults.append(f"line {number}: these two paths are in an earlier line already")
            else:
                found[read[0]].append(read[1])
    except csv.Error as error:
        raise TaxonomyError(f"{path}: it is not CSV: {error}") from error
    faults += [
        f"{SEPARATOR.join(old)!r}: expected either successors or an empty to, which removes it; got both"
        for old, new_paths in found.items()
        if () in new_paths and len(new_paths) > 1
    ]
    if not faults:
        faults = _cycles(found)
    if faults:
        raise TaxonomyError.from_faults(str(path), faults)
    # A row whose two paths are the same has no effect, unless it is one of a split.
    return TaxonomyChanges(
        {old: tuple(filter(None, new_paths)) for old, new_paths in found.items() if new_paths != [old]}
    )


def compare_versions(old: Taxonomy, new: Taxonomy) -> list[tuple[str, str, str]]:
    """The changes between two taxonomies whose nodes have ids.

    Returns:
        Rows of a file of changes, with a remark: a node whose id is in both and whose path differs was renamed, unless
        the change of a node above explains it. A node whose id is gone needs someone to decide; ``to`` is empty.
    """
    now = {node_id: node for node, node_id in new.ids.items()}
    successors: dict[CategoryPath, tuple[CategoryPath, ...]] = {}
    rows = []
    for node, node_id in sorted(old.ids.items(), key=lambda item: (len(item[0]), item[0])):
        found = now.get(node_id)
        if found is None:
            rows.append((SEPARATOR.join(node), "", "removed: name its successors, or leave it empty"))
        elif TaxonomyChanges(_above(node, successors)).now(node) != (found,):
            successors[node] = (found,)
            rows.append((SEPARATOR.join(node), SEPARATOR.join(found), "renamed or moved"))
    return rows


def _above(
    node: CategoryPath, successors: Mapping[CategoryPath, tuple[CategoryPath, ...]]
) -> dict[CategoryPath, tuple[CategoryPath, ...]]:
    """The closest change above ``node``."""
    above = _longest_prefix(node, successors, ())
    return {} if above is None else {above: successors[above]}


def _rows(text: str, faults: list[str]) -> Iterable[tuple[int, str, str]]:
    reader = csv.reader(io.StringIO(text))
    header = [cell.strip().lower() for cell in next(reader, [])]
    if any(header.count(column) != 1 for column in COLUMNS):
        faults.append(f"line 1: expected the columns from and to, got {', '.join(header) or 'nothing'}")
        return
    places = [header.index(column) for column in COLUMNS]
    for row in reader:
        if any(cell.strip() for cell in row):
            old, new = (row[place].strip() if place < len(row) else "" for place in places)
            yield reader.line_num, old, new


def _cycles(found: Mapping[CategoryPath, list[CategoryPath]]) -> list[str]:
    """The nodes that become themselves again by way of others."""
    faults = []
    for start in found:
        waiting = [new for new in found[start] if new != start]
        met = set(waiting)
        while waiting:
            for new in found.get(waiting.pop(), ()):
                if new not in met:
                    met.add(new)
                    waiting.append(new)
        if start in met:
            faults.append(f"{SEPARATOR.join(start)!r}: it becomes itself again by way of other categories")
    return faults


def _longest_prefix(
    path: CategoryPath, nodes: Collection[CategoryPath], used: Collection[CategoryPath]
) -> CategoryPath | None:
    for level in range(len(path), 0, -1):
        if path[:level] in nodes and path[:level] not in used:
            return path[:level]
    return None
