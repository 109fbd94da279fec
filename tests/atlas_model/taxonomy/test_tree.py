"""The taxonomy as a trie of category paths."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_model.core.errors import TaxonomyError
from atlas_model.taxonomy.tree import END, PAD, SPECIAL, START, CategoryPath, Taxonomy, Trie

NAMES = ["Men", "Women", "Tops", "Shirts", "Shoes"]
taxonomies = st.lists(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=8).map(tuple), min_size=1, max_size=12, unique=True
).map(Taxonomy)


def written(taxonomy: Taxonomy, index: int) -> list[str]:
    """The tokens that a decoder writes for a path: END only where the path has children."""
    path = taxonomy.paths[index]
    goes_on = any(other[: len(path)] == path for other in taxonomy.paths if other != path)
    return [*path, SPECIAL[END]] if goes_on else list(path)


def walks(taxonomy: Taxonomy) -> dict[tuple[str, ...], int]:
    """All walks from the root to an end node, and the path that each end node names."""
    trie, found = taxonomy.trie, {}
    waiting: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    while waiting:
        node, names = waiting.pop()
        if trie.is_end[node]:
            assert trie.first[node] == trie.first[node + 1], "an end node has no children"
            found[names] = int(trie.path[node])
        for edge in range(trie.first[node], trie.first[node + 1]):
            waiting.append((edge + 1, (*names, taxonomy.tokens[trie.token[edge]])))
    return found


@given(taxonomies)
def test_trie_contains_exactly_the_paths(taxonomy: Taxonomy) -> None:
    assert walks(taxonomy) == {tuple(written(taxonomy, index)): index for index in range(len(taxonomy))}


@given(taxonomies)
def test_trie_is_a_tree_with_ordered_edges(taxonomy: Taxonomy) -> None:
    trie = taxonomy.trie
    nodes = len(trie.path)
    assert len(trie.first) == nodes + 1
    assert trie.first[-1] == len(trie.token) == nodes - 1, "each node except the root has one parent"
    for node in range(nodes):
        tokens = trie.token[trie.first[node] : trie.first[node + 1]]
        assert list(tokens) == sorted(set(tokens))
        assert all(trie.first[node] + 1 > node for _ in tokens), "children come after their parents"


@given(taxonomies)
def test_levels_are_node_ranges(taxonomy: Taxonomy) -> None:
    trie = taxonomy.trie
    assert trie.levels[0] == 0
    assert trie.levels[-1] == len(trie.path)
    assert len(trie.fan_out) == taxonomy.depth == len(trie.levels) - 2
    for level, widest in enumerate(trie.fan_out):
        first = trie.first[trie.levels[level] : trie.levels[level + 1] + 1]
        assert widest == max(np.diff(first)) > 0
        assert (first[0] + 1, first[-1] + 1) == trie.levels[level + 1 : level + 3], (
            "the children of a level are the next level"
        )


@given(taxonomies)
def test_routes_lead_from_the_root_to_each_path(taxonomy: Taxonomy) -> None:
    trie = taxonomy.trie
    for index, route in enumerate(trie.routes):
        nodes = [int(node) for node in route if node >= 0]
        assert trie.routes.shape[1] == taxonomy.depth + 1
        assert trie.path[nodes[-1]] == index
        assert [taxonomy.tokens[trie.token[node - 1]] for node in nodes[1:]] == written(taxonomy, index)
        for parent, child in itertools.pairwise(nodes):
            assert trie.first[parent] < child <= trie.first[parent + 1]


@given(taxonomies)
def test_targets_spell_the_paths_and_end(taxonomy: Taxonomy) -> None:
    assert taxonomy.targets.shape == (len(taxonomy), taxonomy.depth + 1)
    for row, path in zip(taxonomy.targets, taxonomy.paths, strict=True):
        assert [taxonomy.tokens[token] for token in row[: len(path)]] == list(path)
        assert row[len(path)] == END
        assert all(row[len(path) + 1 :] == PAD)
    assert START not in taxonomy.targets


@given(taxonomies)
def test_json_round_trip(taxonomy: Taxonomy) -> None:
    assert Taxonomy.from_json(json.loads(json.dumps(taxonomy.to_json()))) == taxonomy


def test_same_name_in_two_branches_is_one_token() -> None:
    taxonomy = Taxonomy([("Men", "Shoes"), ("Women", "Shoes"), ("Shoes",)])
    assert taxonomy.tokens == (*SPECIAL, "Men", "Shoes", "Women")
    assert taxonomy.labels == ("Men > Shoes", "Women > Shoes", "Shoes")
    assert taxonomy.index(["Women", "Shoes"]) == 1
    assert ("Shoes",) in taxonomy
    assert ("Men",) not in taxonomy
    assert 3 not in taxonomy


def test_inner_node_may_be_an_end() -> None:
    taxonomy = Taxonomy([("A",), ("A", "B"), ("A", "B", "C")])
    end = SPECIAL[END]
    assert set(walks(taxonomy)) == {("A", end), ("A", "B", end), ("A", "B", "C")}


def test_single_path() -> None:
    trie = Taxonomy([("A",)]).trie
    assert isinstance(trie, Trie)
    assert trie.path.tolist() == [-1, 0]


def test_reports_all_errors() -> None:
    paths: list[CategoryPath] = [("A", ""), (), ("B",), ("B",), ("<end>", "C")]
    with pytest.raises(TaxonomyError) as caught:
        Taxonomy(paths)
    text = str(caught.value)
    assert "4 faults" in text
    assert "path 1 ('A > '): a level is empty" in text
    assert "path 2" in text
    assert "path 4 ('B'): duplicate path" in text
    assert "path 5" in text
    assert "reserved" in text


def test_refuses_empty_taxonomy() -> None:
    with pytest.raises(TaxonomyError, match="empty"):
        Taxonomy([])


@pytest.mark.parametrize("value", [None, [], {}, {"paths": 3}, {"paths": ["AB"]}, {"paths": [[1]]}, {"paths": [None]}])
def test_refuses_invalid_json(value: object) -> None:
    with pytest.raises(TaxonomyError, match=r"old\.json"):
        Taxonomy.from_json(value, "old.json")


def test_names_unknown_path() -> None:
    with pytest.raises(TaxonomyError, match="'A > B' is not one of the taxonomy's 1 paths"):
        Taxonomy([("A",)]).index(("A", "B"))


def test_saves_as_json(tmp_path: Path) -> None:
    taxonomy = Taxonomy([("A", "Größe")])
    taxonomy.save(tmp_path / "taxonomy.json")
    assert Taxonomy.from_json(json.loads((tmp_path / "taxonomy.json").read_text(encoding="utf-8"))) == taxonomy


def test_handles_100_000_paths() -> None:
    draw = random.Random(1)
    paths = {tuple(f"level {draw.randrange(3000)}" for _ in range(draw.randint(2, 8))) for _ in range(100_000)}
    taxonomy = Taxonomy(sorted(paths))
    trie = taxonomy.trie
    assert trie.is_end.sum() == len(taxonomy) > 95_000
    assert sorted(trie.path[trie.is_end]) == list(range(len(taxonomy)))
    assert taxonomy.depth == 8
    assert (taxonomy.targets == END).sum() == len(taxonomy)
