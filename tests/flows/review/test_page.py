"""The review page in Chromium: keys, touch, accessibility, hostile texts, a server that fails or is killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from atlas_model.data.decisions import standing_decisions
from atlas_model.data.reviews import read_reviews
from tests.support.chromium import needs_chromium
from tests.support.review_catalogue import HOSTILE, write_catalogue
from tests.support.web_pages import (
    DESKTOP,
    PHONE,
    atlas_server,
    browsing_pages,
    overflows,
    serious_violations,
    watched_page,
)

pytestmark = [needs_chromium, pytest.mark.slow]


@dataclass
class Review:
    """A running `atlas review`."""

    url: str
    folder: Path
    process: subprocess.Popen[str]

    def stored(self) -> list[dict[str, Any]]:
        """The records of anna, in order."""
        path = self.folder / "data/reviews/anna.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing_pages() as browser:
        yield browser


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    """On the small catalogue; the tests use it one after the other, each as another reviewer or with an undo."""
    folder = tmp_path_factory.mktemp("project")
    write_catalogue(folder)
    with atlas_server(folder, "review", "--reviewer", "anna", "--port", "0") as (url, process):
        yield Review(url, folder, process)


def title(page: Page) -> str:
    return page.locator("#title").inner_text()


def is_stored(page: Page, name: str) -> None:
    expect(page.locator("#said")).to_have_text(name)


def test_the_keyboard_does_everything(review: Review, browser: Browser) -> None:
    with watched_page(browser, review.url) as watched:
        page = watched.page
        expect(page.locator(".choice.selected")).to_be_focused()
        assert title(page) == HOSTILE
        page.keyboard.press("ArrowRight")
        expect(page.locator("#image")).to_have_attribute("src", "/images/second?size=large")
        page.keyboard.press("a")
        expect(page.locator("#image")).to_have_attribute("src", re.compile(r"/attention/second\?path=\d"))
        expect(page.locator("#image")).to_have_js_property("naturalHeight", 290)
        page.keyboard.press("Enter")
        expect(page.locator("#title")).to_have_text("Product 1")
        page.keyboard.press("2")
        page.keyboard.press("ArrowDown")  # on product 2
        page.keyboard.press("Enter")
        expect(page.locator("#title")).to_have_text("Product 3")
        page.keyboard.press("/")
        page.keyboard.type("boots", delay=5)
        expect(page.locator("#found [aria-selected=true]")).to_have_text("Boots Footwear")
        page.keyboard.press("Enter")
        for number, key in enumerate("snx", start=4):
            expect(page.locator("#title")).to_have_text(f"Product {number}")
            page.keyboard.press(key)
        is_stored(page, "Stored: No category fits")
        page.keyboard.press("u")
        is_stored(page, "Undone")
        expect(page.locator("#title")).to_have_text("Product 6")
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("q")
        expect(page.locator("#question")).to_have_text("Does the image show the product?")
        page.keyboard.press("Enter")
        is_stored(page, "Stored: Close-up: shows only a part")
        assert watched.faults == []
        assert page.title() == "Review - Atlas", "the hostile title has run no script"
    records = review.stored()
    assert [(each["kind"], each.get("product_id"), each.get("answer")) for each in records] == [
        ("category", "shop.test:000", "category"),
        ("category", "shop.test:001", "category"),
        ("category", "shop.test:002", "category"),
        ("category", "shop.test:003", "category"),
        ("category", "shop.test:005", "unsure"),
        ("category", "shop.test:006", "none"),
        ("undo", None, None),
        ("zoom", "shop.test:000", "zoomed"),
    ]
    first, second, third, fourth = (each["shown"] | {"category": each["category"]} for each in records[:4])
    assert first["predicted"] == first["category"] and first["keys"] == 3
    assert (second["keys"], third["keys"], fourth["keys"]) == (1, 2, 7)
    assert second["category"] != second["predicted"] and fourth["category"] == ["Footwear", "Boots"]
    assert (review.folder / "data/reviews/images/second.png").is_file()


@pytest.mark.parametrize(
    ("size", "dark", "addresses"),
    [
        (DESKTOP, False, ("", "?queue=zoom", "?order=random")),
        (DESKTOP, True, ("",)),
        (PHONE, False, ("",)),
        (PHONE, True, ("", "?queue=zoom", "?order=random")),
    ],
)
def test_axe_finds_nothing_serious(
    review: Review, browser: Browser, size: tuple[int, int], dark: bool, addresses: tuple[str, ...]
) -> None:
    for address in addresses:
        with watched_page(browser, review.url + address, size, dark=dark) as watched:
            watched.page.wait_for_selector(".choice")
            if not address:
                watched.page.keyboard.press("/")
                watched.page.keyboard.type("t")
                watched.page.wait_for_selector("#found [role=option]")
            assert serious_violations(watched.page) == []
            assert not overflows(watched.page)
            if not address:
                watched.page.keyboard.press("Escape")
                watched.page.keyboard.press("?")
                assert serious_violations(watched.page) == []
            assert watched.faults == []


def test_axe_finds_nothing_serious_on_the_list_of_disagreements(review: Review, browser: Browser) -> None:
    with watched_page(browser, review.url) as watched:
        watched.page.wait_for_selector(".choice")
        for name, choice in (("dora", "zoomed"), ("emil", "normal")):
            given = {"reviewer": name, "queue": "zoom", "product_id": "shop.test:030", "image_id": "image030"}
            given |= {"id": name.encode().hex().rjust(32, "0"), "answer": choice}
            answer = watched.page.request.post(f"{review.url}api/decisions", data=given)
            assert answer.ok, answer.text()
        for dark, size in ((False, DESKTOP), (True, PHONE)):
            with watched_page(browser, f"{review.url}disagreements", size, dark=dark) as listed:
                assert listed.page.locator(".disagreements img").count() == 1
                assert serious_violations(listed.page) == [] and not overflows(listed.page)
                assert listed.faults == []


def test_a_phone_needs_one_touch_a_decision(review: Review, browser: Browser) -> None:
    with watched_page(browser, review.url, PHONE) as watched:
        page = watched.page
        page.wait_for_selector(".choice")
        page.tap("#options")
        page.fill("#reviewer", "touch")
        page.keyboard.press("Enter")
        page.locator("#reviewer").blur()
        page.wait_for_selector(".choice")
        before = title(page)
        page.tap(".choice >> nth=1")
        expect(page.locator("#title")).not_to_have_text(before)
        expect(page.locator("#progress")).to_contain_text("1 decided")
        page.tap("#undo")
        expect(page.locator("#title")).to_have_text(before)
        expect(page.locator("#progress")).to_contain_text("0 decided")
        assert watched.faults == []


def test_a_random_sample_is_blind(review: Review, browser: Browser) -> None:
    with watched_page(browser, f"{review.url}?order=random") as watched:
        page = watched.page
        page.wait_for_selector(".choice")
        assert page.locator(".choice.selected, .choice .share, .choice .tag").count() == 0
        expect(page.locator("#label-now")).to_be_hidden()
        before = title(page)
        page.keyboard.press("Enter")
        assert title(page) == before
        page.keyboard.press("1")
        expect(page.locator("#sample-figures")).to_contain_text("Labels that are right (95 % interval")
        page.keyboard.press("u")
        expect(page.locator("#title")).to_have_text(before)


def test_what_is_not_stored_is_said_and_sent_again(review: Review, browser: Browser) -> None:
    with watched_page(browser, review.url) as watched:
        page = watched.page
        page.wait_for_selector(".choice")
        page.fill("#reviewer", "carl")
        page.keyboard.press("Tab")
        page.wait_for_selector(".choice")
        blocked = review.folder / "data/reviews/carl.jsonl"
        blocked.mkdir(parents=True)  # so that it cannot be opened
        page.locator(".choice >> nth=0").click()
        expect(page.get_by_role("alert")).to_contain_text("1 decision is not stored yet")
        page.keyboard.press("2")
        expect(page.get_by_role("alert")).to_contain_text("2 decisions are not stored yet")
        blocked.rmdir()
        page.click("#retry")
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("#progress")).to_contain_text("2 decided")
        assert len(blocked.read_text().splitlines()) == 2
        assert all("500" in fault for fault in watched.faults)


def test_a_killed_server_loses_no_decision_that_the_page_counts(
    review: Review, browser: Browser, tmp_path: Path
) -> None:
    """Also measures that one key a decision suffices, and sixty decisions a minute."""
    folder = tmp_path / "project"
    shutil.copytree(review.folder, folder)
    shutil.rmtree(folder / "data/reviews", ignore_errors=True)
    with (
        atlas_server(folder, "review", "--reviewer", "anna", "--port", "0") as (url, process),
        watched_page(browser, url) as watched,
    ):
        page = watched.page
        page.wait_for_selector(".choice")
        started = time.monotonic()
        for _ in range(20):
            before = title(page)
            page.keyboard.press("Enter")
            expect(page.locator("#title")).not_to_have_text(before)
        expect(page.locator("#progress")).to_contain_text("20 decided")
        seconds = time.monotonic() - started
        os.kill(process.pid, signal.SIGKILL)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not stored yet")
        counted = int(page.locator("#progress strong").first.inner_text())
    reviews = read_reviews(folder / "data/reviews")
    stored = standing_decisions(reviews.records)
    assert counted == 20 <= len(stored)
    assert {each.shown.keys for each in stored} == {1}
    assert seconds < 20, "60 decisions a minute"
