"""Hostile titles, categories, shops and file names in every page, card, table and export: no script, no formula."""

import csv
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from atlas_model.core.params import load_params
from atlas_model.data.csv_cells import FORMULA, for_cell, from_cell
from atlas_model.taxonomy.names import clean_name
from flows import paths
from flows.prefect_app.server import Server
from flows.stages import report
from flows.text import in_markdown, printable, printable_lines
from tests.support.chromium import needs_chromium
from tests.support.crawling import product
from tests.support.hostile_titles import FORMULAS, TITLES, controls_in
from tests.support.prefect_server import PrefectServer
from tests.support.report_runs import write_run
from tests.support.servers import HOST, Reply
from tests.support.serving import image_file
from tests.support.small_shop import SmallProject, SmallShop, small_shop
from tests.support.web_pages import atlas_server, browsing_pages, watched_page


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
    assert {*tmp_path.iterdir()} == outside and not [*tmp_path.rglob("hacked*")]
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


HOSTILE_CATEGORIES = (
    "Hostile > <img src=x onerror=hacked() > =cmd|'/C calc'!A0",
    "Hostile > {{constructor.constructor('hacked()')()}}",
    '@SUM(1+1) > "><svg onload=hacked() x="'.replace('">', '"'),
    "[x](javascript:hacked())",
)


class HostileShop(SmallShop):
    """A shop whose products have the hostile titles, in turn, also as breadcrumbs."""

    first = 0  # place of the first title

    def reply(self, path: str) -> Reply:
        reply = super().reply(path)
        number = int(path.removeprefix("/p/")) if path.startswith("/p/") else -1
        if number in self.products:
            title = TITLES[(number + self.first) % len(TITLES)]
            return product(title, f"A{number}", f"/i/{number}.jpg", price="1.00", breadcrumb=(title, title))
        return reply


def ui_faults(browser: Browser, url: str) -> list[str]:
    """What runs, or asks evil.test, on a page of Prefect's UI, whose own messages do not count."""
    with watched_page(browser, url) as watched:
        watched.page.wait_for_timeout(3000)
        assert len(watched.page.inner_text("body")) > 50, "the page is shown"
        return [fault for fault in watched.faults if "title runs" in fault or "dialog" in fault or "evil" in fault]


@needs_chromium
@pytest.mark.soak
def test_hostile_titles_of_a_shop_run_nowhere(
    tmp_path: Path, copy_project: Callable[[Path], Path], git_env: dict[str, str], warm_python: Path, browser: Browser
) -> None:
    """Every stage, Prefect's UI, the terminal, review and service, DVC's plots, exports, changes between crawls."""
    count = -(-len(TITLES) // 4)
    (tmp_path / "server").mkdir()
    settings = {**os.environ, "PREFECT_UI_ENABLED": "true"}
    with small_shop(count, kind=HostileShop) as shop, Server(tmp_path / "server", 0, 30, settings) as server:
        server.start()
        server.wait_until_healthy()
        root = copy_project(tmp_path / "project")
        project = SmallProject(root, shop, git_env, warm_python)
        project.env |= {"PREFECT_API_URL": f"{server.url}/api", "DO_NOT_TRACK": "1"}
        (root / "data/taxonomy.csv").write_text("taxonomy\n" + "".join(map(quoted, HOSTILE_CATEGORIES)))
        sources = [quoted(name)[:-1] + f",http://{HOST}/c/{n}\n" for n, name in enumerate(HOSTILE_CATEGORIES)]
        (root / "data/sources.csv").write_text(f"Taxonomy,{HOST}\n" + "".join(sources))
        done = project.run("flows.prefect_app.flow")
        assert done.returncode == 0, done.stdout + done.stderr
        assert isinstance(shop, HostileShop)
        show_everything(project, shop, server, browser, done.stdout + done.stderr)


def show_everything(project: SmallProject, shop: HostileShop, server: Server, browser: Browser, said: str) -> None:
    """Show what a run of the hostile shop has written in every way that there is; ``said`` is its output."""
    root = project.root
    outside = {*root.parent.iterdir()}
    texts = [said]

    def run(*command: str) -> None:
        done = project.run(*command)
        texts.append(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr

    run("flows.cli.main", "check")
    run("flows.cli.main", "results")
    run("dvc", "metrics", "show")
    run("dvc", "plots", "show")
    for form in ("webdataset", "hub"):
        run("flows.cli.main", "export-data", f"exported-{form}", "--format", form)
    project.set({"crawl": {"snapshot": "two"}})
    shop.first = 1
    run("dvc", "repro", "-s", "crawl")
    run("flows.cli.main", "crawl", "changes", "one", "two")
    api = PrefectServer(f"{server.url}/api", server.log)
    faults = prefect_pages(browser, server.url, api)
    for log in api.ask("/logs/filter", {"limit": 200}):
        assert not controls_in(log["message"])
    faults += page_faults(browser, (root / "dvc_plots/index.html").as_uri())
    faults += page_faults(browser, (root / paths.REPORT).as_uri())
    (root / NAME_OF_IMAGE).write_bytes(image_file(1))
    for arguments in (("review", "--reviewer", "anna"), ("serve", "--model", "models/categorizer", "--drain", "0")):
        with atlas_server(root, *arguments, "--port", "0", PYTHONPATH=str(root)) as (url, _):
            faults += shown(browser, url, root)
    assert faults == []
    assert not controls_in("".join(texts))
    written_by_user = (f"{root}/data/taxonomy.csv", f"{root}/data/sources.csv")
    assert [cell for cell in formulas_in(root) if not cell.startswith(written_by_user)] == []
    assert len([*root.rglob("*.csv")]) > 8
    assert {*root.parent.iterdir()} == outside and not [*root.parent.rglob("hacked*")]
    for path in root.glob("exported-webdataset/*.tar"):
        with tarfile.open(path) as tar:
            assert all(name == Path(name).name and name.isascii() for name in tar.getnames())


NAME_OF_IMAGE = "<img src=x onerror=hacked()>.png"


def quoted(name: str) -> str:
    """A line of CSV with one cell."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow([name])
    return written.getvalue()


def page_faults(browser: Browser, url: str) -> list[str]:
    with watched_page(browser, url) as watched:
        watched.page.wait_for_timeout(2000)
        return watched.faults


def prefect_pages(browser: Browser, url: str, api: PrefectServer) -> list[str]:
    """The faults of Prefect's pages of runs, their logs and every artifact."""
    runs = api.ask("/flow_runs/filter", {})
    artifacts: list[dict[str, Any]] = api.ask("/artifacts/filter", {"limit": 200})
    assert runs and len(artifacts) > 10
    pages = ["runs", f"runs/flow-run/{runs[0]['id']}", "artifacts"]
    latest = {each["key"]: each for each in artifacts if each["key"]}
    pages += [f"artifacts/artifact/{each['id']}" for each in latest.values() if "progress" not in each["key"]]
    return [f"{page}: {fault}" for page in pages for fault in ui_faults(browser, f"{url}/{page}")]


def shown(browser: Browser, url: str, root: Path) -> list[str]:
    """The faults of a page of the review (several products) or of the service (an image with a hostile name)."""
    with watched_page(browser, url) as watched:
        page = watched.page
        if page.title().startswith("Review"):
            for _ in range(30):
                page.keyboard.press("s")
                page.wait_for_timeout(60)
        else:
            page.set_input_files("#files", [root / NAME_OF_IMAGE])
            page.wait_for_selector("#answer:not([hidden])")
        return watched.faults
