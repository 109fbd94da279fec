"""The taxonomy: category paths, their tokens, and the trie that constrains the search.

There is one token per level *name*, as in the paper: the same name in two branches is one token, and the trie
distinguishes the branches. Paths may have any depth, and a path may end at an inner node.

`files` reads taxonomies from CSV and text.
"""

from collections.abc import Iterable, Sequence
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

    Raises:
        TaxonomyError: with all errors at once.
    """

    def __init__(self, paths: Iterable[Sequence[str]]) -> None:
        self.paths: tuple[CategoryPath, ...] = tuple(tuple(path) for path in paths)
        faults = _faults(self.paths)
        if faults:
            raise TaxonomyError.from_faults("taxonomy", faults)
        names = sorted({name for path in self.paths for name in path})
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

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all categories on all levels, unique, in alphabetical order."""
        return self.tokens[len(SPECIAL) :]

    @cached_property
    def depth(self) -> int:
        """Number of levels of the deepest path."""
        return max(len(path) for path in self.paths)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The paths as strings ``A > B > C``, in order."""
        return tuple(SEPARATOR.join(path) for path in self.paths)

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
        for row, path in zip(rows, self.paths, strict=True):
            row[: len(path)] = [self._token_of[name] for name in path]
            row[len(path)] = END
        return rows

    @cached_property
    def trie(self) -> Trie:
        """The trie of all paths."""
        return _build_trie(self.targets, len(self.tokens))

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {"paths": [list(path) for path in self.paths]}

    @classmethod
    def from_json(cls, value: Any, source: str = "taxonomy.json") -> "Taxonomy":
        """Read what `to_json` returned; ``source`` is for error messages.

        Raises:
            TaxonomyError: the value has another form, or its paths are not a taxonomy.
        """
        paths = value.get("paths") if isinstance(value, dict) else None
        well_formed = isinstance(paths, list) and all(
            isinstance(path, list) and all(isinstance(name, str) for name in path) for path in paths
        )
        if not well_formed:
            raise TaxonomyError(f'{source}: expected {{"paths": [["A", "B"], ...]}}')
        assert isinstance(paths, list)
        return cls(paths)

    def save(self, path: Path) -> None:
        """Write `to_json` to ``path``."""
        write_json(path, self.to_json())


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
