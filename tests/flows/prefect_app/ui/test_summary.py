"""The message of a completed run, and its page."""

import json
from pathlib import Path

import pytest

from flows.paths import REPORT
from flows.prefect_app.server import REPORT_URL
from flows.prefect_app.ui.summary import RunRecord, missed_text, short, summary


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(REPORT_URL, raising=False)


def evaluated() -> None:
    Path("metrics").mkdir()
    Path("metrics/evaluate.json").write_text(json.dumps({"test": {"micro_f1": 0.8956}}))


def test_message_has_headline_change_and_decision() -> None:
    record = RunRecord()
    assert record.message == "every stage is up to date"
    record.ran += ["crawl", "fetch"]
    assert record.message == "ran crawl, fetch"
    record.results += ["(+.004 to version 3 on the validation split); promoted to version 4", "drift in prices"]
    assert record.message.startswith("(+.004"), "without an evaluation"
    evaluated()
    assert record.message == (
        "micro F .896 (+.004 to version 3 on the validation split); promoted to version 4; drift in prices"
    )
    record.results[:] = ["promoted to version 1"]
    assert record.message == "micro F .896; promoted to version 1"


def test_shares_have_three_decimal_places() -> None:
    assert [short(0.8956), short(1.0), short(0.0)] == [".896", "1.000", ".000"]
    assert [short(0.004, signed=True), short(-0.0123, signed=True), short(-1.0, signed=True)] == [
        "+.004",
        "-.012",
        "-1.000",
    ]


def test_summary_lists_tasks_missed_times_and_links(monkeypatch: pytest.MonkeyPatch) -> None:
    record = RunRecord(missed=["2026-11-28 03:00", "2026-11-29 03:00"])
    with record.timed("zoom_train") as result:
        result.append("up to [date](http://evil.test)")
    with pytest.raises(ValueError, match="a bug"), record.timed("split"):
        raise ValueError("a bug")
    page = summary(record, "stage split failed: <b>a fault\n  - and its place")
    assert page.startswith("**stage split failed: &#60;b>a fault**  \n&#45; and its place\n")
    assert "2 times of the schedule were missed: 2026-11-28 03:00, 2026-11-29 03:00. This run replaces them." in page
    assert "| zoom_train | 0.0\N{NO-BREAK SPACE}s | up to &#91;date&#93;(http&#58;//evil.test) |" in page
    assert "| split | 0.0\N{NO-BREAK SPACE}s | failed |" in page
    assert "`atlas review`" in page
    assert "report" not in page, "there is none"

    REPORT.parent.mkdir()
    REPORT.touch()
    assert f"The report is the file `{REPORT.absolute()}`" in summary(record, "done")
    monkeypatch.setenv(REPORT_URL, "http://127.0.0.1:4200/atlas/report")
    assert "- [Open the report of the last run](http://127.0.0.1:4200/atlas/report)" in summary(record, "done")


def test_many_missed_times_are_counted() -> None:
    assert missed_text(["2026-11-28 03:00"]) == "1 time of the schedule was missed: 2026-11-28 03:00"
    assert missed_text(list("abc"), most=2) == "3 times of the schedule were missed: a, b and 1 more"
