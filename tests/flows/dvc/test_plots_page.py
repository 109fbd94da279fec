"""The page of `dvc plots show` in a browser without a network."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crawlers.http.chromium import find_browser
from tests.support.chromium import needs_chromium
from tests.support.paths import ROOT


@needs_chromium
@pytest.mark.slow
def test_plots_page_draws_plots_and_requests_nothing(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    (tmp_path / ".dvc").mkdir()
    for name in ("config", "plots.html"):
        shutil.copy2(ROOT / ".dvc" / name, tmp_path / ".dvc" / name)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "confusion.csv").write_text("actual,predicted\nShirt,Shirt\nShirt,Dress\nDress,Dress\n")
    (tmp_path / "loss.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    plots = (
        "plots:\n  - confusion.csv: {x: predicted, y: actual, template: confusion}\n  - loss.csv: {x: epoch, y: loss}\n"
    )
    (tmp_path / "dvc.yaml").write_text(plots)
    subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "-q"], cwd=tmp_path, check=True)

    requests: list[str] = []
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(None), chromium_sandbox=os.geteuid() != 0)
        page = browser.new_context(offline=True).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((tmp_path / "dvc_plots/index.html").as_uri())
        page.locator(".vega-embed canvas").nth(1).wait_for()
        widths = page.locator(".vega-embed canvas").evaluate_all("all => all.map(canvas => canvas.width)")
        colours = page.locator(".vega-embed canvas").evaluate_all(
            "all => all.map(c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height)"
            ".data.buffer)).size)"
        )
        browser.close()
    assert len(widths) == 2
    assert min(widths) > 100
    assert min(colours) > 10, "something is drawn"
    assert not faults
    assert len(requests) == 1, "the page itself"


def test_every_project_has_the_template() -> None:
    for folder in (ROOT, ROOT / "benchmarks/fashion_mnist"):
        config = (folder / ".dvc/config").read_text()
        name = re.findall("html_template = (.*)", config)[0]
        template = (folder / ".dvc" / name).read_text(encoding="utf-8")
        assert "{plot_divs}" in template, "else DVC refuses it"
        assert "{scripts}" not in template, "which DVC replaces by scripts of a CDN"
