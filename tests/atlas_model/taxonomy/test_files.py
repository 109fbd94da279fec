"""Reading taxonomies from CSV files."""

import csv
from pathlib import Path

import pytest

from atlas_model.core.errors import TaxonomyError
from atlas_model.taxonomy.files import load_taxonomy, split_path
from tests.support.paths import ROOT

SHARED = ROOT.parent / "shared" / "taxonomies"


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "taxonomy.txt"
    path.write_text(text, encoding=encoding)
    return path


def faults_of(path: Path) -> str:
    with pytest.raises(TaxonomyError) as caught:
        load_taxonomy(path)
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "line", ["Men->Tops->Shirts", "Men > Tops > Shirts", "Men/Tops/Shirts", " Men ->Tops> Shirts "]
)
def test_accepts_three_separators(tmp_path: Path, line: str) -> None:
    assert load_taxonomy(write(tmp_path, f"# comment\n\n{line}\n")).paths == (("Men", "Tops", "Shirts"),)


def test_slash_stays_in_a_name_where_arrows_separate(tmp_path: Path) -> None:
    text = "Men > Shirts/Blouses\nShoes/Boots\n"
    assert load_taxonomy(write(tmp_path, text)).paths == (("Men", "Shirts/Blouses"), ("Shoes/Boots",))


def test_split_path_keeps_empty_levels() -> None:
    assert split_path("A->->B") == ("A", "", "B")
    assert split_path("A//B", slashes=True) == ("A", "", "B")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_reads_csv_of_paths(tmp_path: Path, encoding: str, newline: str) -> None:
    text = newline.join(["TAXONOMY,shop", "A->B,x", "Größe->C,", ""])
    assert load_taxonomy(write(tmp_path, text, encoding)).paths == (("A", "B"), ("Größe", "C"))


def test_reads_csv_of_nodes(tmp_path: Path) -> None:
    text = "id,name,parent_id\n3,Shirts,2\n1,Men,\n2,Tops,1\n4,Shoes,1\n5,Gifts,\n"
    assert load_taxonomy(write(tmp_path, text)).paths == (("Men", "Tops", "Shirts"), ("Men", "Shoes"), ("Gifts",))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (
            "# Google_Product_Taxonomy_Version: 2021-09-21\n1 - Animals, Pets\n3237 - Animals, Pets > Live - 2\n",
            {("Animals, Pets",): "1", ("Animals, Pets", "Live - 2"): "3237"},
        ),
        (
            "# Shopify Product Taxonomy - Categories: 2025-06\n"
            "gid://shopify/TaxonomyCategory/ap     : Animals : Pets\n"
            "gid://shopify/TaxonomyCategory/ap-1   : Animals : Pets > Live\n",
            {
                ("Animals : Pets",): "gid://shopify/TaxonomyCategory/ap",
                ("Animals : Pets", "Live"): "gid://shopify/TaxonomyCategory/ap-1",
            },
        ),
        ("taxonomy,id\nA,\nA->B,7\n", {("A", "B"): "7"}),
        ("id,parent_id,name\n1,,A\n2,1,B\n", {("A",): "1", ("A", "B"): "2"}),
    ],
    ids=["google", "shopify", "csv of paths", "csv of nodes"],
)
def test_keeps_ids(tmp_path: Path, text: str, ids: dict[tuple[str, ...], str]) -> None:
    found = load_taxonomy(write(tmp_path, text))
    assert found.ids == ids
    assert found.paths[-1] == list(ids)[-1]


def test_numbers_that_are_not_on_every_line_are_names(tmp_path: Path) -> None:
    found = load_taxonomy(write(tmp_path, "3 - Piece > Suits\nMen > Shirts\n"))
    assert found.paths == (("3 - Piece", "Suits"), ("Men", "Shirts"))
    assert not found.ids


def test_id_on_two_lines_is_a_fault(tmp_path: Path) -> None:
    assert "line 2: id '1' is on line 1 already" in faults_of(write(tmp_path, "1 - A\n1 - B\n"))


def test_inner_node_with_its_own_line_is_a_category(tmp_path: Path) -> None:
    assert len(load_taxonomy(write(tmp_path, "A\nA > B\n"))) == 2


def test_reports_all_invalid_lines(tmp_path: Path) -> None:
    text = faults_of(write(tmp_path, "A > B\n\nA >\nA > B\n > B\n"))
    assert "3 faults" in text
    assert "line 3: a level is empty" in text
    assert "line 4: 'A > B' is on line 1 already" in text
    assert "line 5: a level is empty" in text


def test_cycle_error_names_only_its_lines(tmp_path: Path) -> None:
    text = faults_of(
        write(tmp_path, "id,parent_id,name\n1,2,A\n2,3,B\n3,1,C\n4,1,hangs on it\n5,5,own parent\n6,,fine\n")
    )
    (line,) = [line for line in text.splitlines() if "cycle: " in line]
    assert sorted(line.partition("lines ")[2].partition(":")[0].split(", ")) == ["2", "3", "4", "6"]


def test_reports_invalid_nodes(tmp_path: Path) -> None:
    text = faults_of(write(tmp_path, "id,parent_id,name\n1,,A\n1,,B\n2,9,C\n,1,D\n"))
    assert "line 3: id '1' is on line 2 already" in text
    assert "line 4: parent_id '9' is no row's id" in text
    assert "line 5: id is empty" in text


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment\n", "Taxonomy,shop\n", "id,parent_id,name\n"])
def test_reports_empty_file(tmp_path: Path, text: str) -> None:
    assert "empty" in faults_of(write(tmp_path, text))


def test_reports_empty_taxonomy_cell(tmp_path: Path) -> None:
    assert "line 3: a level is empty" in faults_of(write(tmp_path, "Taxonomy,shop\nA,x\n,y\n"))


def test_reports_nodes_without_cells_or_names(tmp_path: Path) -> None:
    assert "line 2" in faults_of(write(tmp_path, "id,parent_id,name\n1\n2,,A\n"))


def test_reports_wrong_encoding_and_missing_file(tmp_path: Path) -> None:
    assert "expected UTF-8" in faults_of(write(tmp_path, "Größe > A", "latin-1"))
    assert "No such file" in faults_of(tmp_path / "missing.csv")
    assert "directory" in faults_of(tmp_path)


def test_reports_unterminated_cell(tmp_path: Path) -> None:
    assert "it is not CSV" in faults_of(write(tmp_path, 'taxonomy\n"' + "A->B\n" * 50_000))


def test_reads_taxonomy_of_the_project() -> None:
    taxonomy = load_taxonomy(ROOT / "data/taxonomy.csv")
    assert len(taxonomy) == 10
    assert taxonomy.depth == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real taxonomies beside the project")
def test_reads_real_taxonomies() -> None:
    atlas = load_taxonomy(SHARED / "atlas52.csv")
    with (SHARED / "atlas52.csv").open(encoding="utf-8-sig", newline="") as handle:
        assert len(atlas) == len(list(csv.reader(handle))) - 1 == 52
    google = load_taxonomy(SHARED / "google_product_taxonomy.txt")
    lines = (SHARED / "google_product_taxonomy.txt").read_text(encoding="utf-8").splitlines()
    assert google.labels == tuple(line for line in lines if not line.startswith("#"))
