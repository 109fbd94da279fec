"""The taxonomy: category paths, their tokens, and the trie that constrains the search.

There is one token per level *name*, as in the paper: the same name in two branches is one token, and the trie
distinguishes the branches. Paths may have any depth, and a path may end at an inner node.

A node may have an id, such as Google's or Shopify's. A path may have a key: the path that it was renamed from
(`changes`). Tokens are the names in the keys, so training gives the same weights before and after a renaming.

`files` reads taxonomies from CSV and text.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_model.core.errors import TaxonomyError
from atlas_model.core.files import write_json
from atlas_model.taxonomy.names import LEVEL_SEPARATOR

SEPARATOR = " > "

PAD, START, END = 0, 1, 2  # tokens that are not names
SPECIAL = ("<pad>", "<start>", "<end>")

CategoryPath = tuple[str, ...]


@dataclass(frozen=True)
class Trie:
    """All paths as a trie in compressed sparse rows (arXiv 2602.22647): node 0 is the root.

    Nodes are numbered level by level; the children of a node are adjacent, in token order. So node n has the edges
    ``first[n]:first[n + 1]``, edge e leads to node e + 1, and each level is a range of nodes. If a path ends at a
    node with children, the node has an edge with the token END to a leaf of its own. So every path ends at exactly one
    leaf, whatever its depth.
    """

    path: Int[np.ndarray, "nodes"]  # index of the path that ends at the node; -1 for inner nodes
    first: Int[np.ndarray, "nodes+1"]
    token: Int[np.ndarray, "edges"]  # token of the edge
    routes: Int[np.ndarray, "paths levels"]  # nodes of each path from the root to its end, then -1

    @cached_property
    def is_end(self) -> Bool[np.ndarray, "nodes"]:
        """Whether a path ends at each node."""
        return self.path >= 0

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """The first node of each level, and after them the number of nodes."""
        starts = [0]
        while starts[-1] < len(self.path):
            starts.append(int(self.first[starts[-1]]) + 1)  # where the children of this level's first node begin
        return tuple(starts)

    def mass(self, of_paths: Float[np.ndarray, "paths"]) -> Float[np.ndarray, "nodes"]:
        """Sum ``of_paths`` for each node over the paths through it."""
        mass = np.zeros(len(self.path))
        on = self.routes >= 0
        np.add.at(mass, self.routes[on], np.broadcast_to(of_paths[:, None], self.routes.shape)[on])
        return mass

    @cached_property
    def fan_out(self) -> tuple[int, ...]:
        """Maximum number of edges per node, for each level that has edges."""
        spans = zip(self.levels, self.levels[1:], strict=False)
        widest = [int(np.diff(self.first[start : end + 1]).max()) for start, end in spans]
        return tuple(widest[:-1])


class Taxonomy:
    """An ordered set of category paths.

    Args:
        paths: at least one; each a non-empty sequence of non-empty level names without ``>``; no path twice.
        keys: for each path the one that it was renamed from, of the same length. Nodes and their keys correspond one
            to one. None: nothing was renamed.
        ids: of nodes, by their path from the root; those of other nodes are ignored.

    Raises:
        TaxonomyError: with all errors at once.
    """

    def __init__(
        self,
        paths: Iterable[Sequence[str]],
        *,
        keys: Iterable[Sequence[str]] | None = None,
        ids: Mapping[CategoryPath, str] | None = None,
    ) -> None:
        self.paths: tuple[CategoryPath, ...] = tuple(tuple(path) for path in paths)
        self.keys = self.paths if keys is None else tuple(tuple(key) for key in keys)
        faults = _faults(self.paths)
        if not faults and self.keys != self.paths:
            faults = [f"keys: {fault}" for fault in _faults(self.keys)] or _key_faults(self.paths, self.keys)
        if faults:
            raise TaxonomyError.from_faults("taxonomy", faults)
        nodes = {path[:level] for path in self.paths for level in range(1, len(path) + 1)} if ids else set()
        self.ids: dict[CategoryPath, str] = {node: node_id for node, node_id in (ids or {}).items() if node in nodes}
        names = sorted({name for key in self.keys for name in key})
        self.tokens: tuple[str, ...] = (*SPECIAL, *names)
        self._token_of = {name: index for index, name in enumerate(self.tokens) if index >= len(SPECIAL)}
        self._index_of = {path: index for index, path in enumerate(self.paths)}

    def __len__(self) -> int:
        return len(self.paths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taxonomy) and self.paths == other.paths

    def __hash__(self) -> int:
        return hash(self.paths)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, Sequence) and tuple(path) in self._index_of

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all categories on all levels, unique, in alphabetical order."""
        return tuple(sorted({name for path in self.paths for name in path}))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The names that are tokens: `names`, but renamed ones as they are in the keys."""
        return self.tokens[len(SPECIAL) :]

    def id_of(self, node: Sequence[str]) -> str | None:
        """The id of the node with this path from the root; None if it has none."""
        return self.ids.get(tuple(node))

    def key_of(self, node: Sequence[str]) -> CategoryPath:
        """The key of the node with this path from the root, which must be in the taxonomy."""
        return self._key_of_node[tuple(node)]

    @cached_property
    def _key_of_node(self) -> dict[CategoryPath, CategoryPath]:
        pairs = zip(self.paths, self.keys, strict=True)
        return {path[:level]: key[:level] for path, key in pairs for level in range(len(path) + 1)}

    def restricted_to(self, paths: Container[CategoryPath]) -> "Taxonomy":
        """The taxonomy with those of its paths that are in ``paths``, in its order."""
        kept = [(path, key) for path, key in zip(self.paths, self.keys, strict=True) if path in paths]
        return Taxonomy([path for path, _ in kept], keys=[key for _, key in kept], ids=self.ids)

    @cached_property
    def depth(self) -> int:
        """Number of levels of the deepest path."""
        return max(len(path) for path in self.paths)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The paths as strings ``A > B > C``, in order."""
        return tuple(SEPARATOR.join(path) for path in self.paths)

    @cached_property
    def key_labels(self) -> tuple[str, ...]:
        """The keys as strings ``A > B > C``, in the order of the paths."""
        return tuple(SEPARATOR.join(key) for key in self.keys)

    def index(self, path: Sequence[str]) -> int:
        """Return the index of ``path``.

        Raises:
            TaxonomyError: it is not in the taxonomy.
        """
        try:
            return self._index_of[tuple(path)]
        except KeyError:
            raise TaxonomyError(f"{SEPARATOR.join(path)!r} is not one of the taxonomy's {len(self)} paths") from None

    @cached_property
    def targets(self) -> Int[np.ndarray, "paths steps"]:
        """The decoder's targets for each path, in depth + 1 steps: its tokens, END, then PAD."""
        rows = np.full((len(self), self.depth + 1), PAD, dtype=np.int64)
        for row, key in zip(rows, self.keys, strict=True):
            row[: len(key)] = [self._token_of[name] for name in key]
            row[len(key)] = END
        return rows

    @cached_property
    def trie(self) -> Trie:
        """The trie of all paths."""
        return _build_trie(self.targets, len(self.tokens))

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values: ``paths``; ``keys`` if something was renamed; ``ids`` by label if there are any."""
        value: dict[str, Any] = {"paths": [list(path) for path in self.paths]}
        if self.keys != self.paths:
            value["keys"] = [list(key) for key in self.keys]
        if self.ids:
            value["ids"] = {SEPARATOR.join(node): node_id for node, node_id in self.ids.items()}
        return value

    @classmethod
    def from_json(cls, value: Any, source: str = "taxonomy.json") -> "Taxonomy":
        """Read what `to_json` returned; ``source`` is for error messages.

        Raises:
            TaxonomyError: the value has another form, or its paths are not a taxonomy.
        """
        given = value if isinstance(value, dict) else {}
        paths, keys, ids = given.get("paths"), given.get("keys"), given.get("ids", {})
        if paths is None or not _is_list_of_paths(paths):
            raise TaxonomyError(f'{source}: expected {{"paths": [["A", "B"], ...]}}')
        if not (keys is None or _is_list_of_paths(keys)) or not _is_dict_of_texts(ids):
            raise TaxonomyError(f'{source}: expected "keys": [["A", "B"], ...] and "ids": {{"A > B": "12", ...}}')
        return cls(paths, keys=keys, ids={tuple(label.split(SEPARATOR)): node_id for label, node_id in ids.items()})

    def save(self, path: Path) -> None:
        """Write `to_json` to ``path``."""
        write_json(path, self.to_json())


def _is_list_of_paths(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(path, list) and all(isinstance(name, str) for name in path) for path in value
    )


def _is_dict_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _key_faults(paths: tuple[CategoryPath, ...], keys: tuple[CategoryPath, ...]) -> list[str]:
    """The faults of keys: each node must have one key, and each key one node."""
    if len(keys) != len(paths):
        return [f"keys: expected one for each of {len(paths)} paths, got {len(keys)}"]
    faults = []
    key_of: dict[CategoryPath, CategoryPath] = {}
    node_of: dict[CategoryPath, CategoryPath] = {}
    for path, key in zip(paths, keys, strict=True):
        text = f"keys: {SEPARATOR.join(path)!r} and its key {SEPARATOR.join(key)!r}"
        if len(path) != len(key):
            faults.append(f"{text}: expected the same number of levels")
        elif any(
            key_of.setdefault(path[:level], key[:level]) != key[:level]
            or node_of.setdefault(key[:level], path[:level]) != path[:level]
            for level in range(1, len(path) + 1)
        ):
            faults.append(f"{text}: expected one key for each node, and one node for each key")
    return faults


def _faults(paths: tuple[CategoryPath, ...]) -> list[str]:
    if not paths:
        return ["it is empty: at least one category path is needed"]
    faults = []
    seen: set[CategoryPath] = set()
    for number, path in enumerate(paths, start=1):
        text = SEPARATOR.join(path)
        if not path or not all(name.strip() for name in path):
            faults.append(f"path {number} ({text!r}): a level is empty")
        if any(name in SPECIAL for name in path):
            faults.append(f"path {number} ({text!r}): {', '.join(SPECIAL)} are reserved names")
        named = ", ".join(repr(name) for name in path if LEVEL_SEPARATOR in name and name not in SPECIAL)
        if named:
            faults.append(f"path {number}: {LEVEL_SEPARATOR} separates levels and cannot be in a name; rename {named}")
        if path in seen:
            faults.append(f"path {number} ({text!r}): duplicate path")
        seen.add(path)
    return faults


def _build_trie(targets: Int[np.ndarray, "paths steps"], vocabulary: int) -> Trie:
    node = np.zeros(len(targets), dtype=np.int64)  # node that each path has reached; -1: it has ended
    nodes = 1
    routes, parents, tokens = [node], [], []
    for token in targets.T[:-1]:  # the last column has only the END of leaves
        has_children = np.zeros(nodes + 1, dtype=np.bool_)  # node -1 has none
        has_children[node[(node >= 0) & (token > END)]] = True
        advances = has_children[node] & (token != PAD)  # so END has an edge only where there are others
        # An edge as one number of node and token: sorting the edges sorts the new nodes.
        edges, edge_of = np.unique(node[advances] * vocabulary + token[advances], return_inverse=True)
        node = np.full(len(targets), -1)
        node[advances] = nodes + edge_of
        nodes += len(edges)
        routes.append(node)
        parents.append(edges // vocabulary)
        tokens.append(edges % vocabulary)
    route_of = np.stack(routes, axis=1)
    path_of = np.full(nodes, -1)
    path_of[route_of.max(axis=1)] = np.arange(len(targets))
    return Trie(
        path=path_of,
        first=np.searchsorted(np.concatenate(parents), np.arange(nodes + 1)),
        token=np.concatenate(tokens),
        routes=route_of,
    )
