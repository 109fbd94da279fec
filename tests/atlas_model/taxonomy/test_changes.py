"""Changes between versions of a taxonomy: what labels become, and what training may keep."""

from pathlib import Path

import pytest

from atlas_model.core.errors import TaxonomyError
from atlas_model.taxonomy.changes import NO_CHANGES, TaxonomyChanges, compare_versions, load_changes
from atlas_model.taxonomy.files import load_taxonomy
from atlas_model.taxonomy.tree import Taxonomy

OLD = Taxonomy(
    [("Men", "Coat"), ("Men", "Shirt"), ("Women", "Coat"), ("Women", "Skirt"), ("Women", "Dress")],
    ids={("Men",): "1", ("Men", "Coat"): "2", ("Women", "Skirt"): "3"},
)


def changes(tmp_path: Path, *rows: str, taxonomy: Taxonomy | None = OLD) -> TaxonomyChanges:
    path = tmp_path / "changes.csv"
    path.write_text("\n".join(["from,to", *rows, ""]), encoding="utf-8")
    return load_changes(path, taxonomy)


def test_header_alone_changes_nothing(tmp_path: Path) -> None:
    found = changes(tmp_path)
    assert not found
    assert found.now(("Men", "Coat")) == (("Men", "Coat"),) == NO_CHANGES.now(("Men", "Coat"))


def test_renames_one_of_two_nodes_with_the_same_name(tmp_path: Path) -> None:
    today = changes(tmp_path, "Men > Coat,Men > Overcoat").apply(OLD)
    assert today.paths[:3] == (("Men", "Overcoat"), ("Men", "Shirt"), ("Women", "Coat"))
    assert today.tokens == OLD.tokens, "the weights of the tokens stay valid"
    assert (today.targets == OLD.targets).all()
    assert today.id_of(("Men", "Overcoat")) == "2"
    assert today.key_of(("Men", "Overcoat")) == ("Men", "Coat")
    assert Taxonomy.from_json(today.to_json()).to_json() == today.to_json()


def test_row_of_an_inner_node_holds_for_what_is_below(tmp_path: Path) -> None:
    found = changes(tmp_path, "Men,Gents", "Men > Shirt,Gents > Tops", taxonomy=None)
    assert [found.now(path) for path in (("Men", "Coat"), ("Men", "Shirt", "Long"), ("Gents", "Coat"))] == [
        (("Gents", "Coat"),),
        (("Gents", "Tops", "Long"),),
        (("Gents", "Coat"),),
    ]
    assert found.apply(OLD).keys == OLD.paths


def test_rows_of_several_versions_form_a_chain(tmp_path: Path) -> None:
    found = changes(tmp_path, "Men > Coat,Men > Overcoat", "Men > Overcoat,Men > Jackets")
    assert found.now(("Men", "Coat")) == found.now(("Men", "Overcoat")) == (("Men", "Jackets"),)
    assert found.former(("Men", "Jackets")) == ("Men", "Coat")


def test_merge_keeps_no_keys(tmp_path: Path) -> None:
    today = changes(tmp_path, "Women > Skirt,Women > Bottoms", "Women > Dress,Women > Bottoms").apply(OLD)
    assert len(today) == 4
    assert today.keys == today.paths


def test_split_names_all_successors(tmp_path: Path) -> None:
    found = changes(tmp_path, "Women > Dress,Women > Dress", "Women > Dress,Women > Gown", "Women > Skirt,")
    assert found.now(("Women", "Dress")) == (("Women", "Dress"), ("Women", "Gown"))
    assert found.now(("Women", "Skirt")) == ()
    assert found.apply(OLD).paths[3:] == (("Women", "Dress"), ("Women", "Gown"))


def test_node_that_moves_down_is_not_moved_twice(tmp_path: Path) -> None:
    found = changes(tmp_path, "Men > Coat,Men > Coat > Long")
    assert found.now(("Men", "Coat")) == found.now(("Men", "Coat", "Long")) == (("Men", "Coat", "Long"),)


def test_ids_name_nodes(tmp_path: Path) -> None:
    found = changes(tmp_path, "2,Men > Overcoat")
    assert found.now(("Men", "Coat")) == (("Men", "Overcoat"),)


def test_all_faults_of_a_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError) as caught:
        changes(tmp_path, "A > ,B", ",B", "C,D", "C,D", "C,")
    assert [part in str(caught.value) for part in ("line 2", "line 3", "line 5", "'C': expected either")] == [True] * 4
    with pytest.raises(TaxonomyError, match="becomes itself again"):
        changes(tmp_path, "A,B", "B,C", "C,A")
    with pytest.raises(TaxonomyError, match="columns from and to"):
        load_changes(_write(tmp_path, "old,new\nA,B\n"), None)


def _write(folder: Path, text: str) -> Path:
    path = folder / "other.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_versions_with_ids_are_compared(tmp_path: Path) -> None:
    old = load_taxonomy(_write(tmp_path, "1 - A\n2 - A > B\n3 - A > B > C\n4 - A > D\n"))
    new = load_taxonomy(_write(tmp_path, "1 - A\n2 - A > X\n3 - A > X > C\n5 - A > E\n"))
    rows = compare_versions(old, new)
    assert [row[:2] for row in rows] == [("A > B", "A > X"), ("A > D", "")]


def test_keys_that_are_not_one_to_one_are_refused() -> None:
    with pytest.raises(TaxonomyError, match="one key for each node"):
        Taxonomy([("A", "B"), ("A", "C")], keys=[("A", "B"), ("X", "C")])
    with pytest.raises(TaxonomyError, match="same number of levels"):
        Taxonomy([("A", "B")], keys=[("A",)])
    with pytest.raises(TaxonomyError, match='"ids"'):
        Taxonomy.from_json({"paths": [["A"]], "ids": {"A": 1}})
