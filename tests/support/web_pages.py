"""Opens our own pages in the system's Chromium, and checks them with axe-core."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page, Request, expect, sync_playwright

from crawlers.http.chromium import find_browser
from tests.support.flow_projects import environment

DESKTOP, PHONE = (1280, 800), (390, 844)  # px
TIMEOUT_MS = 30_000  # the machine may be busy


@contextmanager
def browsing_pages() -> Iterator[Browser]:
    """A headless Chromium."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(None), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, and what must stay empty: errors of scripts, violations of the policy, requests to other hosts.

    Also dialogs, and calls of ``hacked()``, with which scripts in `tests.support.hostile_titles` show that they run.
    """

    page: Page
    faults: list[str] = field(default_factory=list)


@contextmanager
def watched_page(
    browser: Browser, url: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False
) -> Iterator[Watched]:
    """Open ``url`` in a window of its own."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        has_touch=size[0] < 600,
    )
    origin = "/".join(url.split("/", 3)[:3])

    def check_host(request: Request) -> None:
        if not request.url.startswith((origin, "data:", "blob:")):
            watched.faults.append(f"request to {request.url}")

    def dismiss(dialog: Dialog) -> None:
        watched.faults.append(f"dialog {dialog.message}")
        dialog.dismiss()

    try:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        watched = Watched(page)
        context.expose_function("hacked", lambda: watched.faults.append("a script of a title runs"))
        page.on("dialog", dismiss)
        page.on("pageerror", lambda error: watched.faults.append(str(error)))
        page.on("console", lambda message: watched.faults.append(message.text) if message.type == "error" else None)
        page.on("request", check_host)
        page.goto(url)
        yield watched
    finally:
        context.close()


def serious_violations(page: Page) -> list[str]:
    """The violations that axe-core rates as serious or critical, with the elements."""
    return [
        f"{found['id']}: {found['help']}: {', '.join(str(node['target']) for node in found['nodes'])}"
        for found in Axe().run(page).response["violations"]
        if found["impact"] in ("serious", "critical")
    ]


def overflows(page: Page) -> bool:
    """Whether the page is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


@contextmanager
def atlas_server(folder: Path, *arguments: str, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``atlas <arguments>`` in ``folder``: the first URL that it prints, and the process."""
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**variables), stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "http://" in line:
                yield next(word for word in line.split() if word.startswith("http://")), process
                break
        else:
            raise AssertionError((folder / "server.log").read_text())
    finally:
        process.kill()  # ending Python with torch takes seconds
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
