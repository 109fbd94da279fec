"""Records of reviews: nothing that was stored is lost, and what was not written by us is not believed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.data.images import decode, encode_png
from atlas_model.data.reviews import (
    MAX_IMAGE_BYTES,
    STORED_SIDE,
    Decision,
    Undo,
    append_record,
    file_of,
    read_reviews,
    reviewer_name,
    store_image,
    stored_image,
)
from tests.support.full_disk import limited_file_size
from tests.support.reviews import category, undo, zoom

WRITER = """
import sys
from pathlib import Path
from atlas_model.data.reviews import append_record
from tests.support.reviews import category

for number in range(1_000_000):
    record = category(f"p{number}", "A > B")
    append_record(Path(sys.argv[1]), record)
    print(record.id, flush=True)
"""


def test_records_are_read_as_they_were_stored(tmp_path: Path) -> None:
    first = category("p1", "A > B")
    records: list[Decision | Undo] = [
        first,
        zoom("i1", "zoomed", "Jörg-2"),
        category("p2", None, answer="none"),
        undo(first),
    ]
    for record in records:
        append_record(tmp_path / "reviews", record)
    found = read_reviews(tmp_path / "reviews")
    assert (found.records, found.torn, found.reviewers) == (records, [], ["Jörg-2", "anna"])
    assert [path.name for path in sorted((tmp_path / "reviews").iterdir())] == ["Jörg-2.jsonl", "anna.jsonl"]
    assert read_reviews(tmp_path / "nowhere").records == []


@pytest.mark.slow
def test_a_killed_process_loses_no_confirmed_record(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        confirmed = [writer.stdout.readline().strip() for _ in range(100)]
        os.kill(writer.pid, signal.SIGKILL)
        confirmed += writer.stdout.read().split()
    found = read_reviews(tmp_path)
    assert [record.id for record in found.records][: len(confirmed)] == confirmed
    append_record(tmp_path, category("p", "A > B"))
    assert len(read_reviews(tmp_path).records) == len(found.records) + 1


def test_an_incomplete_last_line_is_reported_and_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = category("p1", "A > B"), category("p2", "A > B")
    append_record(tmp_path, first)
    path = file_of(tmp_path, "anna")
    whole = path.read_bytes()
    for torn in (whole + b'{"version": 1, "id"', whole + b"\xff\xfe"):
        path.write_bytes(torn)
        reviews = read_reviews(tmp_path)
        assert (reviews.records, reviews.torn) == ([first], [path])
        (warning,) = reviews.warnings()
        assert "anna.jsonl: its last line is incomplete and is ignored" in warning
    append_record(tmp_path, second)
    assert "removed an incomplete last line" in capsys.readouterr().err
    assert read_reviews(tmp_path).records == [first, second]
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # as some editors save it: complete
    third = category("p3", "A > B")
    append_record(tmp_path, third)
    assert read_reviews(tmp_path).records == [first, second, third]


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    append_record(tmp_path, category("p1", "A > B"))
    before = file_of(tmp_path, "anna").read_bytes()
    with limited_file_size(len(before) + 20), pytest.raises(AtlasError, match="could not be stored"):
        append_record(tmp_path, category("p2", "A > B"))
    assert file_of(tmp_path, "anna").read_bytes() == before


def test_invalid_lines_are_listed_together(tmp_path: Path) -> None:
    append_record(tmp_path, category("p1", "A > B"))
    path = file_of(tmp_path, "anna")
    good = json.loads(path.read_text())
    del good["crc32"]  # as if written by hand
    bad = [
        "<<<<<<< HEAD",
        json.dumps(good | {"version": 2}),
        json.dumps(good | {"colour": "red"}),
        json.dumps(good | {"answer": "unsure"}),
        json.dumps(good | {"reviewer": "bob"}),
        json.dumps(good | {"product_id": "another"}),
        json.dumps({**good, "kind": "undo", "undoes": "f" * 32}),
        "x" * 70_000,
    ]
    path.write_text("\n".join([path.read_text().strip(), *bad, ""]))
    with pytest.raises(InputError) as caught:
        read_reviews(tmp_path)
    text = str(caught.value)
    for line in range(2, 7):
        assert f"anna.jsonl, line {line}: " in text
    assert "expected the reviewer anna, got bob" in text and "two different records have the id" in text
    assert "line 9: expected at most 65536 bytes, got 70000" in text


def test_an_undo_of_an_unknown_record_is_invalid(tmp_path: Path) -> None:
    decision = category("p1", "A > B")
    append_record(tmp_path, decision)
    append_record(tmp_path, undo(decision, reviewer="bob"))
    with pytest.raises(InputError, match=r"bob\.jsonl: .* undoes .*, which is not in this file"):
        read_reviews(tmp_path)


def test_a_line_that_a_merge_repeats_counts_once(tmp_path: Path) -> None:
    append_record(tmp_path, category("p1", "A > B"))
    path = file_of(tmp_path, "anna")
    path.write_bytes(2 * path.read_bytes())
    assert len(read_reviews(tmp_path).records) == 1


@pytest.mark.parametrize("name", ["../anna", "a/b", "", ".hidden", "x" * 65, "a\nb/", "con:"])
def test_names_of_reviewers_are_names_of_files(name: str) -> None:
    with pytest.raises(InputError, match="reviewer: expected a name"):
        reviewer_name(name)
    assert reviewer_name("Anna  Müller") == "Anna-Müller"


def test_images_are_stored_and_large_ones_reduced(tmp_path: Path) -> None:
    small = encode_png(Image.new("RGB", (30, 40), "red"))
    noise = np.random.default_rng(1).integers(0, 256, (800, 1200, 3), dtype=np.uint8)
    large = encode_png(Image.fromarray(noise))
    store_image(tmp_path, "a1", small)
    store_image(tmp_path, "b2", large)
    assert stored_image(tmp_path, "a1") == small
    assert stored_image(tmp_path, "c3") is None
    reduced = stored_image(tmp_path, "b2")
    assert reduced is not None and len(reduced) < len(large) and len(large) > MAX_IMAGE_BYTES
    assert max(decode(reduced).size) == STORED_SIDE
