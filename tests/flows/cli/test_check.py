"""`atlas check`: the files that the parameters name."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from tests.support.file_source import stage_params, write_csv


def test_check_covers_table_and_image_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    table = write_csv("a.jpg,A,x")
    Path("data").mkdir()
    Path("data/taxonomy.csv").write_text("taxonomy\nA\n")
    Path("data/taxonomy_changes.csv").write_text("from,to\n")

    def params(**columns: Any) -> None:
        content = stage_params(table, columns).model_dump(mode="json")
        content["zoom"]["enabled"] = False  # which needs no labelled images
        Path("params.yaml").write_text(json.dumps(content))

    params()
    assert main(["check"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "data/taxonomy.csv: ok",
        "data/taxonomy_changes.csv: ok",
        "table.csv: ok",
        "photos: ok",
    ]
    params(title="name")
    Path("photos").rmdir()
    assert main(["check"]) == 2
    err = capsys.readouterr().err
    assert "error: table.csv: no column 'name'; its columns are: 'image', 'category', 'title'" in err
    assert "error: photos: expected a folder of images, got nothing" in err
