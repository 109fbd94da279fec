"""Hostile titles, categories, shops and file names in every page, card, table and export: no script, no formula."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from atlas_model.core.params import load_params
from atlas_model.data.csv_cells import FORMULA, for_cell, from_cell
from atlas_model.taxonomy.names import clean_name
from flows import paths
from flows.cli.main import main
from flows.stages import report
from flows.text import in_markdown, printable, printable_lines
from tests.support.chromium import needs_chromium
from tests.support.hostile_titles import FORMULAS, TITLES, controls_in
from tests.support.report_runs import write_run
from tests.support.web_pages import browsing_pages, watched_page


def names_of_categories() -> list[tuple[str, ...]]:
    """A category path per title, as far as a taxonomy takes it as a name."""
    cleaned = dict.fromkeys(clean_name(title).replace(">", "").strip()[:200] for title in map(encodable, TITLES))
    return [("Hostile", name) for name in cleaned if name]


def encodable(title: str) -> str:
    """``title`` without surrogates, which no Parquet file holds; the readers of pages and manifests remove them."""
    return title.encode(errors="replace").decode()


def test_hostile_titles_are_many_and_different() -> None:
    assert len(set(TITLES)) == len(TITLES) >= 100
    assert len(names_of_categories()) >= 80


@pytest.mark.parametrize("title", [*FORMULAS, "", "a", "a=b", "'a", "1", "''=1", "' =1", "\0"])
def test_cell_is_no_formula_and_read_back_as_it_was(title: str) -> None:
    written = io.StringIO()
    csv.writer(written).writerow([for_cell(title)])
    (row,) = csv.reader(io.StringIO(written.getvalue(), newline=""))
    assert not is_formula(row[0])
    assert from_cell(row[0]) == title


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet runs ``cell``: it begins with one of OWASP's signs, also behind spaces."""
    return cell.lstrip(" ")[:1] in {*FORMULA.replace("\\", "")} - {""}


@pytest.mark.parametrize("title", TITLES, ids=range(len(TITLES)))
def test_terminal_and_markdown_get_no_control_characters(title: str) -> None:
    for shown in (printable(title), printable_lines(title), in_markdown(title)):
        assert not controls_in(shown)
    assert "\n" not in printable(title) and "\n" not in in_markdown(title)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing_pages() as found:
        yield found


def formulas_in(folder: Path) -> list[str]:
    """The text cells of all CSV files below ``folder`` that a spreadsheet would run."""
    found = []
    for path in folder.rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                found += [f"{path}: {cell}" for cell in row if is_formula(cell) and not is_number(cell)]
    return found


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@needs_chromium
@pytest.mark.slow
def test_report_and_cards_show_hostile_names_as_text(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "project"
    sites = [name for _, name in names_of_categories()[:20]]
    titles = [*map(encodable, TITLES)]
    write_run(folder, names_of_categories(), sites=sites, titles=titles, reads_titles=True)
    monkeypatch.chdir(folder)
    outside = {*tmp_path.iterdir()}
    report.run(load_params())
    said = capsys.readouterr()
    assert not controls_in(said.out + said.err)
    assert {*tmp_path.iterdir()} == outside and not [*tmp_path.rglob("*hacked*")]
    with watched_page(browser, (folder / paths.REPORT).as_uri()) as watched:
        page = watched.page
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        page.get_by_label("Find").fill("hacked()")
        assert page.locator("#table tbody tr").locator("visible=true").count() > 20
        assert "{{7*7}}" in page.content() and page.locator("#table a[href*=evil], script[src], iframe").count() == 0
        assert watched.faults == []
    for card in (folder / paths.CARDS).rglob("*.md"):
        text = card.read_text(encoding="utf-8")
        assert not controls_in(text)
        assert (
            "<script" not in text and "<img" not in text and "](javascript" not in text and "](http://evil" not in text
        )
