"""Reading of images from a folder: checks, limits, unchanged files."""

import json
import os
from pathlib import Path

import pytest

from atlas_model.core.errors import InputError
from flows import paths
from tests.support.fetching import jpeg
from tests.support.file_source import put, run, write_csv


def test_checks_images_like_other_sources(here: Path) -> None:
    put("good.jpg", "large.jpg")
    Path("photos/large.jpg").write_bytes(jpeg("large", 400))
    Path("photos/zero.jpg").touch()
    Path("photos/page.jpg").write_text("<html>")
    Path("photos/half.jpg").write_bytes(jpeg("half", 64)[:-200])
    Path("photos/heavy.jpg").write_bytes(jpeg("heavy") + b"\0" * 20_000)
    names = ["good", "large", "zero", "page", "half", "heavy"]
    found = run(write_csv(*(f"{name}.jpg,A,x" for name in names)), max_bytes=20_000, max_pixels=10_000)
    assert found == {
        "good.jpg": "ok",
        "large.jpg": "too_many_pixels",
        "zero.jpg": "empty",
        "page.jpg": "not_an_image",
        "half.jpg": "truncated",
        "heavy.jpg": "too_large",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_gets_a_status(here: Path) -> None:
    put("a.jpg", "b.jpg")
    Path("photos/a.jpg").chmod(0)
    assert run(write_csv("a.jpg,A,x", "b.jpg,A,x"))["a.jpg"] == "unreadable"


def test_counts_bad_images_and_fails_above_the_allowed_share(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(*(f"{number}.jpg" for number in range(9)))
    table = write_csv(*(f"{number}.jpg,A,x" for number in range(10)))
    assert run(table, max_failed_share=0.1)["9.jpg"] == "not_found"
    assert "1 of 10 images are unusable:\n  - not_found 1: 9.jpg" in capsys.readouterr().err
    Path("photos/8.jpg").write_bytes(b"")
    before = paths.REFS.read_bytes()
    with pytest.raises(InputError, match=r"table.csv: 2 of 10 images are unusable.*max_failed_share, 0.1") as caught:
        run(table, max_failed_share=0.1)
    assert str(caught.value).splitlines()[1:] == ["  - empty 1: 8.jpg", "  - not_found 1: 9.jpg"]
    assert paths.REFS.read_bytes() == before
    with pytest.raises(InputError, match="1 of 1 images are unusable, and none is left"):
        run(write_csv("no.jpg,A,x"))


def test_reads_only_changed_files_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.jpg", "b.jpg", "c.jpg")
    table = write_csv("a.jpg,A,x", "b.jpg,A,x", "c.jpg,A,x")
    run(table)
    first = {path: path.read_bytes() for path in (paths.REFS, *paths.SHARDS.iterdir())}
    checked: list[bytes] = []
    from crawlers.files import images

    check = vars(images)["check"]
    monkeypatch.setattr(images, "check", lambda data, most: (checked.append(data), check(data, most))[1])
    run(table)
    assert checked == []
    assert json.loads((paths.TIMINGS / "fetch.json").read_text())["unchanged"] == 3
    assert {path: path.read_bytes() for path in first} == first
    Path("photos/b.jpg").write_bytes(jpeg("another"))
    assert run(table) == dict.fromkeys(["a.jpg", "b.jpg", "c.jpg"], "ok")
    assert checked == [jpeg("another")]
    Path("photos/c.jpg").unlink()
    assert run(table)["c.jpg"] == "not_found"
    put("c.jpg")
    assert run(table)["c.jpg"] == "ok"
    Path("photos/b.jpg").write_bytes(jpeg("small", 8))
    found = run(table, max_pixels=100)  # limits apply to unchanged files too
    assert found == {"a.jpg": "too_many_pixels", "b.jpg": "ok", "c.jpg": "too_many_pixels"}
