"""The page of `atlas serve` in Chromium: images, attention, feedback, accessibility, phones, untrusted names."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, Route

from atlas_model.data.reviews import read_reviews
from tests.support.serving import image_file, save_model
from tests.support.web_pages import PHONE, atlas_server, browsing_pages, overflows, serious_violations, watched_page

EVIL = "<img src=x onerror=alert(1)>.png"
ANSWERED = "#answer:not([hidden])"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("service")
    save_model(made / "model")
    for name in ("front.png", "back.png", EVIL):
        (made / name).write_bytes(image_file(len(name), side=200))
    return made


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    arguments = [
        "serve",
        "--model",
        "model",
        "--port",
        "0",
        "--engine",
        "torch",
        "--reviews",
        "reviews",
        "--drain",
        "0",
    ]
    with atlas_server(folder, *arguments) as (found, _):
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing_pages() as found:
        yield found


def status(page: Page) -> str:
    return page.inner_text("#status")


def test_images_are_predicted_corrected_and_stored(browser: Browser, url: str, folder: Path) -> None:
    with watched_page(browser, url) as watched:
        page = watched.page
        page.set_input_files("#files", [folder / "front.png"])
        page.wait_for_selector(ANSWERED)
        levels = page.locator("#levels .name").all_inner_texts()
        assert levels
        assert " > ".join(levels) in status(page)
        assert page.locator("#levels .overlay").count() == len(levels)
        page.uncheck("#attention")
        assert page.locator("#levels .overlay[src^='data:']").count() == 0
        assert page.locator("#alternatives li").count() == 4
        page.set_input_files("#files", [folder / "back.png", folder / EVIL])
        page.locator("#status", has_text="from 3 images together").wait_for()
        page.fill("#title", "Blue <b>bag</b>")
        page.locator("#result[aria-busy=false]").wait_for()
        assert serious_violations(page) == []
        page.focus("#wrong")
        page.keyboard.press("Enter")  # the correction by keyboard alone
        page.keyboard.type("Men > Shoes > Low")
        page.keyboard.press("Tab")
        page.keyboard.type("anna")
        page.keyboard.press("Enter")
        page.locator("#thanks", has_text="anna").wait_for()
        page.click("#clear")
        assert status(page).startswith("Add an image")
        assert watched.faults == []
    (record,) = read_reviews(folder / "reviews").records
    assert (record.reviewer, record.category) == ("anna", ("Men", "Shoes", "Low"))


def test_late_answer_about_another_title_cannot_be_corrected(browser: Browser, url: str, folder: Path) -> None:
    with watched_page(browser, url) as watched:
        page = watched.page
        page.set_input_files("#files", [folder / "front.png"])
        page.locator("#result[aria-busy=false]").wait_for()
        page.clock.install(time=0)
        page.clock.pause_at(1000)  # so that the pause after the last key ends only when the test says so
        held: list[Route] = []
        page.route("**/v1/predict/files", lambda route: held.append(route))  # noqa: PLW0108  # playwright marks it
        page.set_input_files("#files", [folder / "back.png"])
        page.locator("#status", has_text="Predicting").wait_for()
        page.fill("#title", "Blue bag")
        page.unroute("**/v1/predict/files")
        for route in held:
            with suppress(Error):  # the page has given the request up
                route.continue_()
        page.wait_for_timeout(500)
        assert page.is_disabled("#wrong")
        page.clock.run_for(1000)
        page.locator("#result[aria-busy=false]").wait_for()
        assert page.is_enabled("#wrong")
        assert watched.faults == []


def test_page_on_a_dark_phone_takes_pasted_images_and_reports_unusable_ones(
    browser: Browser, url: str, folder: Path
) -> None:
    with watched_page(browser, url, PHONE, dark=True) as watched:
        page = watched.page
        assert page.get_attribute("#camera", "capture") == "environment"
        assert serious_violations(page) == []
        page.evaluate(
            """async (url) => {
                const data = new DataTransfer();
                data.items.add(new File([await (await fetch(url)).blob()], "pasted.svg", { type: "image/png" }));
                document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
            }""",
            "/static/atlas.svg",
        )
        page.wait_for_selector("#problem:not([hidden])")
        assert "got other bytes" in page.inner_text("#problem")
        page.set_input_files("#camera", folder / "front.png")
        page.wait_for_selector(ANSWERED)
        assert "not an image" in page.inner_text("#thumbnails")
        assert serious_violations(page) == []
        assert not overflows(page)
        assert [fault for fault in watched.faults if "422" not in fault] == []  # the browser reports that status
