"""The journal: resuming, deletion of outdated rows, damaged files, durability."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_model.core.errors import AtlasError
from crawlers.crawl.journal import LISTING, PRODUCT, SITEMAP, Journal, JournalPage
from crawlers.crawl.product_grouping import Identity
from tests.support.paths import ROOT

URL = "http://a.test/p/1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work/journal.sqlite"


def _as_said(said: str, rank: int) -> Identity:
    return Identity(said, said, said, said, said)


def begun(path: Path, snapshot: str = "one", reader: str = "r") -> Journal:
    journal = Journal(path)
    journal.begin(snapshot, [reader])
    return journal


def test_resumes_an_unfinished_crawl_of_the_same_name(path: Path) -> None:
    page = JournalPage("said", None, "r", "http://a.test/p/one", '"tag"', "yesterday", b"\x00\xff")
    with begun(path) as journal:
        journal.put(PRODUCT, URL, page)
    with begun(path) as journal:
        assert journal.page(PRODUCT, URL) == page._replace(crawl=journal.crawl)
        assert journal.page(LISTING, URL) is None
        assert journal.count_products_read() == 1
        journal.link([URL, "http://a.test/p/2"], 0, "a.test")
        assert journal.next_products("a.test", 9) == ["http://a.test/p/2"], "what is settled is not asked for"
        assert journal.next_products("a.test", 9) == [], "nor is anything twice"


def test_resumes_a_finished_crawl_whose_result_was_lost(path: Path) -> None:
    with begun(path) as journal:
        journal.put(PRODUCT, URL, JournalPage("said", reader="r"))
        journal.finish()
    with Journal(path) as journal:
        journal.begin("one", ["r"], again=False)
        journal.link([URL], 0, "a.test")
        assert journal.next_products("a.test", 9) == [], "it has the page"
        journal.finish()
    with Journal(path) as journal:
        journal.begin("two", ["r"], again=False)
        journal.link([URL], 0, "a.test")
        assert journal.next_products("a.test", 9) == [URL], "another name crawls again"


@pytest.mark.parametrize("finished", [True, False])
def test_new_crawl_requests_all_pages_and_keeps_old_rows(path: Path, finished: bool) -> None:
    with begun(path) as journal:
        journal.put(PRODUCT, URL, JournalPage("said", reader="r"))
        if finished:
            journal.finish()
    with begun(path, "one" if finished else "two") as journal:
        known = journal.page(PRODUCT, URL)
        assert known is not None
        assert (known.item, known.crawl) == ("said", journal.crawl - 1)
        journal.link([URL], 0, "a.test")
        assert journal.next_products("a.test", 9) == [URL]
        journal.finish()
        assert journal.page(PRODUCT, URL) is None, "a page that a whole crawl did not meet is forgotten"


def test_deletes_rows_of_other_readers(path: Path) -> None:
    with begun(path) as journal:
        journal.put(PRODUCT, URL, JournalPage("said", reader="r"))
        journal.put(PRODUCT, URL + "0", JournalPage("said", reader="of another shop"))
    with begun(path) as journal:
        assert journal.page(PRODUCT, URL) is not None
        assert journal.page(PRODUCT, URL + "0") is None


def test_links_and_faults_belong_to_one_run(path: Path) -> None:
    with begun(path) as journal:
        assert journal.link([URL, URL + "0"], 0, "a.test") == 2
        assert journal.link([URL, URL + "1"], 0, "a.test") == 1, "new to this source"
        assert journal.link([URL], 1, "a.test") == 1, "and to that one"
        assert journal.found == 3
        journal.fault(PRODUCT, URL, "timeout")
        journal.put(PRODUCT, URL + "0", JournalPage(dropped="robots", reader="r"))
        found = list(journal.products(_as_said))
        assert [(one.url[-3:], one.dropped, one.ranks) for one in found] == [
            ("p/1", "timeout", [0, 1]),
            ("/10", "robots", [0]),
            ("/11", "not_asked", [0]),
        ]
        assert list(journal.faults(PRODUCT)) == [(URL, "timeout", "a.test")]
        assert journal.found_by_site() == {"a.test": 3}
    with begun(path) as journal:
        assert list(journal.products(_as_said)) == list(journal.faults(PRODUCT)) == []


def test_products_are_sorted_like_in_python(path: Path) -> None:
    names = ["é", "z", "Z", "10", "9", "\U0001f600", "\uffff"]
    with begun(path) as journal:
        journal.link([f"http://a.test/{number}" for number in range(len(names))], 0, "a.test")
        for number, name in enumerate(names):
            journal.put(PRODUCT, f"http://a.test/{number}", JournalPage(name, reader="r"))
        assert [found.product_id for found in journal.products(_as_said)] == sorted(names)


def test_query_variants_are_recognised_after_three_equal_pages(path: Path) -> None:
    with begun(path) as journal:
        for number in range(3):
            url = f"{URL}?ref={number}"
            assert journal.variant_of(f"{URL}?ref=new") is None
            journal.put(PRODUCT, url, JournalPage("said", reader="r"))
            journal.count_variant(url, "the same")
        found = journal.variant_of(f"{URL}?ref=new")
        assert found is not None
        assert found.item == "said"
        assert journal.variant_of(URL) is None, "it has no query"
        journal.count_variant(f"{URL}?id=2", "another")
        journal.count_variant(f"{URL}?id=2", "another")
        assert journal.variant_of(f"{URL}?ref=new") is None, "here the query distinguishes products"


def test_dropped_sitemap_is_not_returned(path: Path) -> None:
    with begun(path) as journal:
        journal.put(SITEMAP, "http://a.test/2.xml", JournalPage(dropped="http_404", reader="r"))
        journal.put(SITEMAP, "http://a.test/1.xml", JournalPage("{}", reader="r"))
        assert list(journal.sitemaps()) == ["{}"]


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be looked at" * 99, b""])
def test_replaces_a_damaged_journal(path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with begun(path) as journal:
        journal.put(PRODUCT, URL, JournalPage("said", reader="r"))
    assert ("damaged" in capsys.readouterr().err) == bool(content)


def test_replaces_a_journal_of_another_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with begun(path) as journal:
        journal.put(PRODUCT, URL, JournalPage("said", reader="r"))
    monkeypatch.setattr("crawlers.crawl.journal.VERSION", 99)
    with begun(path) as journal:
        assert journal.page(PRODUCT, URL) is None


def test_unwritable_journal_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(AtlasError, match="expected a file that can be written"):
        Journal(tmp_path / "j")


WRITER = """
import sys
from pathlib import Path
from crawlers.crawl.journal import Journal, JournalPage
with Journal(Path(sys.argv[1])) as journal:
    journal.begin("one", ["r"])
    for number in range(10**9):
        journal.put("product", str(number), JournalPage("said", reader="r"))
        print(number, flush=True)
"""


def test_committed_rows_survive_sigkill(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 100:
            pass
        os.kill(writer.pid, signal.SIGKILL)
        last = int(["100", *writer.stdout.read().split()][-1])
    with begun(path) as journal:
        assert last < journal.count_products_read() <= last + 2
