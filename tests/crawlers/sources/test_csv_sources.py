"""Reading of sources.csv, and its error messages."""

from pathlib import Path

import pytest

from atlas_model.core.errors import TaxonomyError
from crawlers.sources.csv_sources import Source, read_sources
from tests.support.paths import ROOT


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "sources.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(TaxonomyError) as caught:
        read_sources(path)
    head, *lines = str(caught.value).split("\n  - ")
    assert str(path) in head
    return lines or [head]


def test_reads_each_url_of_each_cell(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "\ufeffShop A, TAXONOMY ,Shop B\r\n"
        "http://a.test/shirts,Clothing -> Tops->Shirt,\r\n"
        '\r\n"http://a.test/bags https://www.a.test:8443/b?x=1#top\nhttp://a.test/bags",Bags,http://B.test/\r\n',
    )
    assert read_sources(path) == [
        Source("a.test", ("Clothing", "Tops", "Shirt"), "http://a.test/shirts"),
        Source("a.test", ("Bags",), "http://a.test/bags"),
        Source("www.a.test", ("Bags",), "https://www.a.test:8443/b?x=1"),
        Source("b.test", ("Bags",), "http://B.test/"),
    ]


def test_reads_the_sample() -> None:
    sources = read_sources(ROOT / "data/sources.csv")
    assert {source.site for source in sources} == {f"shop-{shop}.demo.test" for shop in "abc"}
    assert {len(source.taxonomy) for source in sources} == {3}


def test_reports_all_errors_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Taxonomy,Shop\n"
        "A->->B,http://a.test/1\n"
        ",http://a.test/2\n"
        "A,ftp://a.test/ file:///etc/passwd\n"
        "B,http://[bad/ http:///x http://a.test:99999999/\n"
        "C,http://user:secret@a.test/\n"
        "D,http://a.test/4,http://a.test/5\n"
        "E,http://a.test/4\n",
    )
    found = faults(path)
    for number, text in [(2, "level is empty"), (3, "level is empty"), (4, "'ftp://a.test/'"), (4, "'file:///etc")]:
        assert any(line.startswith(f"line {number}: ") and text in line for line in found), (number, text)
    assert sum(line.startswith("line 5: ") for line in found) == 3
    assert any(line.startswith("line 6: ") and "password" in line for line in found)
    assert any(line.startswith("line 7: ") and "2 cells" in line for line in found)
    assert any(line.startswith("line 8: ") and "'D' on line 7 already" in line for line in found)
    assert len(found) == 10
    assert "secret" not in "".join(found)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "one column Taxonomy"),
        ("Category,Shop\nA,http://a.test/\n", "one column Taxonomy"),
        ("Taxonomy,taxonomy\nA,B\n", "one column Taxonomy"),
        ("Taxonomy,Shop\n", "at least one category URL"),
        ("Taxonomy,Shop\nA->B,\n", "at least one category URL"),
        ("Taxonomy,Shop\nA,caf\xe9".encode("latin-1"), "expected UTF-8"),
        ("Taxonomy,Shop\nA," + "x" * 200_000, "not CSV"),
    ],
)
def test_rejects_invalid_files(tmp_path: Path, content: str | bytes, text: str) -> None:
    assert text in faults(write(tmp_path, content))[0]


def test_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    assert "cannot be read" in faults(tmp_path / "none.csv")[0]
