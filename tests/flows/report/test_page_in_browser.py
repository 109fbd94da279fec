"""The report in Chromium without a network: nothing is loaded, it fits a phone, axe finds nothing serious."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from atlas_model.core.params import load_params
from flows import paths
from flows.stages import report
from tests.support.report_runs import categories, write_run
from tests.support.web_pages import DESKTOP, PHONE, browsing_pages, overflows, serious_violations, watched_page

pytestmark = [
    pytest.mark.slow,  # starts Chromium
    pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="needs Chromium"),
]


CUT_LABELS = """
[...document.querySelectorAll('svg text')].filter((label) => {
  const [inner, outer] = [label, label.ownerSVGElement].map((one) => one.getBoundingClientRect());
  return inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1);
}).map((label) => label.textContent)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the report of a run with hostile names and a category without test images."""
    folder = tmp_path_factory.mktemp("run") / "project"
    names = [*categories(9), ("<img src=//evil.test ", "Very long " * 12, "Wide"), ("Flat",)]
    write_run(folder, names, untested=[("Flat",)], reads_titles=True, title="<img src=//evil.test/a.png>")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.run(load_params())
    return (folder / paths.REPORT).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing_pages() as found:
        yield found


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False), (PHONE, True)])
def test_page_is_accessible_and_loads_nothing(
    browser: Browser, url: str, size: tuple[int, int], dark: Literal[True, False]
) -> None:
    with watched_page(browser, url, size, dark=dark) as watched:
        page = watched.page
        assert not overflows(page)
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        assert serious_violations(page) == []
        drawn = page.evaluate(
            "[...document.querySelectorAll('.thumb')].filter((one) => one.getBoundingClientRect().width > 20).length"
        )
        assert drawn > 20
        assert not overflows(page)
        assert watched.faults == [], "no error, no violation of the policy, no request"


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_no_chart_cuts_a_label(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """All is right, so that the axis of the comparison ends at 100 %."""
    write_run(tmp_path / "run", categories(9))
    file = tmp_path / "run" / paths.REPORTS / "evaluate/metrics.json"
    metrics = json.loads(file.read_text())
    metrics["test"] |= {"micro_f1": 1.0}
    metrics["test"]["intervals"] |= {"micro_f1": [0.9, 1.0]}
    file.write_text(json.dumps(metrics))
    monkeypatch.chdir(tmp_path / "run")
    report.run(load_params())
    with watched_page(browser, (tmp_path / "run" / paths.REPORT).as_uri(), size) as watched:
        assert watched.page.locator(".forest").get_by_text("100 %").count() == 1
        assert watched.page.evaluate(CUT_LABELS) == []


def test_categories_are_found_and_sorted(browser: Browser, url: str) -> None:
    with watched_page(browser, url) as watched:
        page = watched.page
        table = page.locator("#table tbody tr")
        assert table.count() == 11
        page.get_by_label("Find").fill("category 3")
        assert table.locator("visible=true").count() == 1
        assert page.locator("#found").inner_text() == "1 of 11"
        page.get_by_label("Find").fill("")
        head = page.locator("#table thead")
        head.get_by_role("button", name="F", exact=True).click()
        best = table.first.locator("td").last.inner_text()
        assert table.last.locator("td").last.inner_text() == "unknown"
        head.get_by_role("button", name="F", exact=True).press("Enter")
        worst = table.first.locator("td").last.inner_text()
        assert float(worst.split()[0]) <= float(best.split()[0])
        assert table.last.locator("td").last.inner_text() == "unknown", "unknown ones stay at the end"
        head.get_by_role("button", name="category").click()
        names = table.locator("th").all_inner_texts()
        assert names == sorted(names, key=str.casefold)
        page.get_by_role("button", name="Close all").click()
        assert page.locator(".tree details[open]").count() == 0
        page.get_by_role("button", name="Open all").click()
        assert page.locator(".tree details:not([open])").count() == 0
        assert watched.faults == []


def test_page_is_whole_without_javascript(browser: Browser, url: str) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    try:
        page = context.new_page()
        page.goto(url)
        assert page.locator("#table tbody tr").count() == 11
        assert not page.get_by_role("button", name="Open all").is_visible()
        summary = page.locator(".tree summary").first
        assert summary.locator("xpath=..").get_attribute("open") is not None
        summary.click()
        assert summary.locator("xpath=..").get_attribute("open") is None
        printed = page.pdf()
        assert printed.startswith(b"%PDF")
    finally:
        context.close()
