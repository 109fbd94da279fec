"""The report: its numbers are those of the stages, strangers' text stays text, its size has a limit."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lxml import html

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.params import Params, load_params
from atlas_model.split.reasons import REMEDIES
from flows import paths
from flows.report.facts.discards import NAMES
from flows.report.facts.quality import COLUMNS
from flows.stages import report
from flows.text import percent
from tests.support.report_runs import EACH, LOST, categories, write_json_to, write_run

Page = html.HtmlElement


def run_stage(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Page:
    """Run the stage in ``folder`` with these keys of the section report; returns the page."""
    monkeypatch.chdir(folder)
    params = load_params()
    section = params.report.model_copy(update=options)
    report.run(Params.model_validate(params.model_copy(update={"report": section}).model_dump()))
    return page_of(folder)


def page_of(folder: Path) -> Page:
    return html.document_fromstring((folder / paths.REPORT).read_bytes())


def text_of(element: Page) -> str:
    return " ".join(element.text_content().replace("\N{NO-BREAK SPACE}", " ").split())


def section(page: Page, name: str) -> str:
    (found,) = page.xpath(f"//section[@id='{name}']")
    return text_of(found)


def table(page: Page, path: str) -> list[list[str]]:
    return [[text_of(cell) for cell in row.xpath("th|td")] for row in page.xpath(f"{path}//tr")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "project"
    write_run(folder, categories(7), untested=categories(7)[6:])
    with pytest.MonkeyPatch.context() as patch:
        run_stage(folder, patch)
    return folder


def metrics_of(folder: Path, stage: str) -> dict[str, Any]:
    return json.loads((folder / paths.REPORTS / stage / "metrics.json").read_text())


def test_headline_figures_are_those_of_the_evaluation(run: Path) -> None:
    test = metrics_of(run, "evaluate")["test"]
    text = section(page_of(run), "figures")
    for key in ("micro_f1", "macro_f1", "hierarchical_f1", "ece"):
        low, high = test["intervals"][key]
        assert f"{test[key] * 100:.1f} % 95 %: {low * 100:.1f} to {high * 100:.1f} %" in text
    assert "75.0 % 95 %: 70.0 to 80.0 %" in text, "products"
    assert "This model: −1.0 points (95 %: −3.0 to +1.0), no clear difference" in text
    assert "no model has been accepted" in text


def test_scores_of_categories_are_those_of_the_evaluation(run: Path) -> None:
    page = page_of(run)
    found = {row[0]: row for row in table(page, "//table[@id='table']")[1:]}
    with (run / paths.EVALUATION / "categories.csv").open() as handle:
        expected = list(csv.DictReader(handle))
    assert len(expected) == 7
    for row in expected:
        shown = found[row["category"]]
        assert shown[1:4] == [str(EACH["train"]), str(EACH["val"]), row["n"]]
        cells = [row[key] for key in ("precision", "recall", "f1")]
        assert shown[5:] == [
            percent(float(cell)).replace("\N{NO-BREAK SPACE}", " ") if cell else "unknown" for cell in cells
        ]
        assert bool(int(row["n"])) == bool(cells[1]) == bool(cells[2]), "without images both are unknown"
    assert "No test image for 1 of 7 categories" in section(page, "warnings")


def test_tree_adds_up_what_is_below(run: Path) -> None:
    (tree,) = page_of(run).xpath("//div[contains(@class, 'tree')]")
    rows = {text_of(row): row for row in tree.xpath(".//summary|.//div[contains(@class, 'leaf')]")}
    assert len(tree.xpath(".//div[contains(@class, 'leaf')]")) == 7
    roots = [text_of(row) for row in tree.xpath("./ul/li/details/summary")]
    counts = [int(text.split("test ")[1].split()[0]) for text in roots]
    assert sum(counts) == metrics_of(run, "evaluate")["test"]["n"]
    assert len(rows) > 7


def test_every_image_of_every_shop_is_in_a_split_or_has_a_reason(run: Path) -> None:
    page = page_of(run)
    head, *shops, total = table(page, "//div[@aria-label='Shops']")
    assert [shop[0] for shop in shops] == ["shop-a.test", "shop-b.test"]
    number = {name: [int(row[head.index(name)]) for row in (*shops, total)] for name in head[1:-1]}
    assert number["images"] == [
        sum(parts) for parts in zip(*(number[name] for name in (*EACH, "discarded")), strict=True)
    ]
    assert all(sum(counts[:-1]) == counts[-1] for counts in number.values())
    split = metrics_of(run, "split")
    assert number["discarded"][-1] == sum(split["dropped"].values())
    assert [number[name][-1] for name in EACH] == [split["images_per_split"][name] for name in EACH]
    assert "lost in crawl: excluded by robots.txt 2" in section(page, "sources")
    assert "lost in fetch: HTTP 404 7" in section(page, "sources")


def test_discarded_images_are_shown_with_their_reason(run: Path) -> None:
    strips = page_of(run).xpath("//section[@id='discarded']//ul[@class='strips']/li")
    assert {text_of(strip.xpath("./h3")[0]) for strip in strips} == {
        "Close-up 7",
        "Duplicate 7",
        "Near-duplicate of a test image 7",
        "Not downloaded 7",
    }
    for strip in strips:
        assert len(strip.xpath(".//svg")) == (0 if "Not downloaded" in text_of(strip) else 7)


def test_confused_pairs_show_images_of_both_categories(run: Path) -> None:
    page = page_of(run)
    predictions = pq.read_table(run / paths.EVALUATION / "predictions.parquet").to_pylist()
    counts = Counter(
        (row["actual_category"], row["predicted_category"])
        for row in predictions
        if row["actual_category"] != row["predicted_category"]
    )
    first = page.xpath("//ol[@class='pairs']/li")[0]
    most = max(counts.values())
    assert f"{most} images, {most / EACH['test'] * 100:.1f} % of the test images of" in text_of(first)
    three = first.xpath(".//div[@class='three']/div")
    assert [len(each.xpath(".//svg")) for each in three][1] == most
    assert all(each.xpath(".//svg") for each in three)
    stored = [image.get("id") for image in page.xpath("//defs/image")]
    used = {use.get("href") for use in page.xpath("//use")}
    assert used == {f"#{name}" for name in stored}
    assert len(set(stored)) == len(stored), "an image is stored once, whatever the number of places"


def test_same_files_give_same_bytes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [paths.REPORT, paths.CARDS / "model/README.md", paths.CARDS / "data/README.md"]
    before = [(run / name).read_bytes() for name in names]
    run_stage(run, monkeypatch)
    assert before == [(run / name).read_bytes() for name in names]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "side"), [(50, 128), (300, 48)])
def test_page_has_at_most_five_megabytes(
    count: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of 128 px is the worst case: each thumbnail has some 9 kB."""
    write_run(tmp_path / "run", categories(count), side=side)
    page = run_stage(tmp_path / "run", monkeypatch, pairs=100, images=8 if count == 50 else 4)
    assert 1_000_000 < (tmp_path / "run" / paths.REPORT).stat().st_size <= 5_000_000
    assert len(page.xpath("//div[contains(@class, 'leaf')]")) == count
    assert len(page.xpath("//table[@id='table']//th[@scope='row']")) == count


def test_images_that_do_not_fit_are_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    whole, all_images = (run / paths.REPORT).read_bytes(), len(page_of(run).xpath("//defs/image"))
    page = run_stage(run, monkeypatch, max_bytes=len(whole) - 20_000)
    shown = len(page.xpath("//defs/image"))
    assert 0 < shown < all_images
    assert f"{shown} of {all_images} example images are shown; {all_images - shown} did not fit" in text_of(page)
    counts = metrics_of(run, "report")["images"]
    assert counts == {"shown": shown, "left_out": all_images - shown, "unreadable": 0}
    with pytest.raises(InputError, match=r"report\.max_bytes: expected at least .*Raise it, or lower report\.pairs"):
        run_stage(run, monkeypatch, max_bytes=10_000)
    run_stage(run, monkeypatch)


HOSTILE = [  # a name cannot contain ">"
    ("<script src=//evil.test ", '"<img src=x onerror=alert(1) '),
    ("<script src=//evil.test ", "</title/<svg/onload=alert(1)//"),
    ("{{ 7 * 7 }}", "' onmouseover='alert(1)"),
    ("\N{RIGHT-TO-LEFT OVERRIDE}nip\x1b[31m", "x" * 400),
]


def test_text_of_strangers_is_shown_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    title = '<iframe src="//evil.test"></iframe>&amp;'
    write_run(tmp_path / "run", HOSTILE, sites=['<a href="//evil.test">shop</a>.test'], title=title)
    evil = '<b onclick="alert(1)">Atlas</b>'
    page = run_stage(tmp_path / "run", monkeypatch, title=evil, description="<style>*{}</style>", contact="<object>")
    assert len(page.xpath("//script")) == len(page.xpath("//style")) == 1
    assert page.xpath("//iframe|//object|//img|//base|//form|//embed|//link[not(@rel='icon')]") == []
    assert page.xpath("//@*[starts-with(name(), 'on')]|//@style") == []
    urls = [str(url) for url in page.xpath("//@href|//@src")]
    assert all(url.startswith(("#", "data:image/")) for url in urls)
    names = [text_of(cell) for cell in page.xpath("//table[@id='table']//th[@scope='row']")]
    assert names[0] == '<script src=//evil.test > "<img src=x onerror=alert(1)'
    assert names[2].startswith("{{ 7 * 7 }} > ")
    assert names[3].startswith("\N{REPLACEMENT CHARACTER}nip\N{REPLACEMENT CHARACTER}[31m > xxx")
    assert len(names[3]) <= 160
    assert page.xpath("//h1")[0].text_content() == evil
    assert f"{title} 0" in [image.text for image in page.xpath("//section//svg/title")]
    (policy,) = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_missing_things_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of local images without titles, one level, no close-up filter, and a model that is always right."""
    write_run(tmp_path / "run", [("Shirts",), ("Jeans",)], sites=["files"], title="", wrong=False)
    params = tmp_path / "run/params.yaml"
    text = params.read_text().replace("source: demo", "source: files").replace("enabled: true  ", "enabled: false ")
    params.write_text(text)
    page = run_stage(tmp_path / "run", monkeypatch)
    assert "No test image has a wrong path" in section(page, "confusions")
    assert "The source is a table and a folder of images" in section(page, "sources")
    assert "product pages" not in section(page, "sources").partition("Per shop")[0]
    assert "The close-up filter is disabled" in section(page, "warnings")
    assert "The model reads images alone" in section(page, "titles")
    assert "No stage looked for doubtful images" in section(page, "quality")
    assert "unknown: this evaluation did not measure it of these are correct" in section(page, "figures")
    assert "none is ranked" in section(page, "categories")
    assert page.xpath("//div[contains(@class, 'tree')]//details") == []
    assert "untitled image" in {image.text for image in page.xpath("//section//svg/title")}
    (tmp_path / "run" / paths.DISCARDED).unlink()
    with pytest.raises(MissingError, match=r"discarded\.parquet.* dvc repro split"):
        run_stage(tmp_path / "run", monkeypatch)


def test_findings_about_quality_and_kinds_of_input_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run", categories(4), reads_titles=True)
    monkeypatch.chdir(tmp_path / "run")
    ids = pq.read_table(paths.REFS, columns=["image_id"])["image_id"].to_pylist()[:5]
    found = {"image_id": ids, "issue": ["dark", "label_error", "odd", "duplicate", "duplicate"]}
    details = [None, "Branch 1 > Category 1", None, ids[4], ids[3]]
    table_of = pa.Table.from_pydict({**found, "score": [0.5, 0.9, 0.1, 0.8, 0.8], "detail": details}, COLUMNS)
    pq.write_table(table_of, paths.REPORTS / "split/quality.parquet")
    page = run_stage(tmp_path / "run", monkeypatch)
    names = [text_of(name) for name in page.xpath("//section[@id='quality']//h3")]
    assert names == ["Likely label error 1", "Duplicate 2", "Dark 1", "Odd 1"]
    assert section(page, "quality").count("looks the same") == 2, "in the explanation, and below the one pair"
    assert "Category 0 → Category 1" in section(page, "quality")
    rows = table(page, "//section[@id='titles']")
    assert [row[0] for row in rows[1:]] == ["image", "title", "image and title"]
    assert rows[2][-1] == "+10.0 (+5.0 to +15.0)"
    assert "with the title of the product" in section(page, "figures")


def test_every_reason_of_the_split_has_a_name() -> None:
    near = {"near_duplicate_of_test", "near_duplicate_of_val"}
    assert set(NAMES) == set(REMEDIES) - {"near_duplicate"} | near


def test_damaged_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run", categories(2), side=8)
    for path, damage, reason in (
        (paths.EVALUATION / "metrics.json", b"[]", "expected a JSON object, got list. Run: dvc repro evaluate"),
        (paths.CHAMPIONS, b'{"champions": [{}]}', "expected the history of champions"),
        (paths.EVALUATION / "predictions.parquet", b"x", "expected a Parquet file"),
        (paths.PLOTS / "evaluate/reliability_baseline.csv", b"n\nx\n", "expected a table of numbers"),
    ):
        file = tmp_path / "run" / path
        before = file.read_bytes()
        file.write_bytes(damage)
        with pytest.raises(InputError, match=reason):
            run_stage(tmp_path / "run", monkeypatch)
        file.write_bytes(before)
    write_json_to(tmp_path / "run" / paths.EVALUATION / "metrics.json", {})
    page = run_stage(tmp_path / "run", monkeypatch)
    assert "unknown" in section(page, "figures")
    assert LOST
