"""Other values in a YAML file whose comments and order stay."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from atlas_model.errors import ParamsError
from atlas_model.yaml_files import replace_values

ROOT = Path(__file__).resolve().parent.parent
TEXT = """\
# first
a:
  one: x            # of one
  two: [p, q]       # of two
  three:            # of three
  four: {b: 1}
  five: "null"  # of five
b: 1.5
"""


def replaced(folder: Path, text: str, values: dict[tuple[str, ...], Any]) -> str:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return replace_values(path, values, ParamsError).decode()


def test_values_change_and_comments_stay_where_they_are(tmp_path: Path) -> None:
    values: dict[tuple[str, ...], Any] = {
        ("a", "one"): "a longer text: with a colon",
        ("a", "two"): ["p"],
        ("a", "three"): " > ",
        ("a", "five"): None,
        ("b",): False,
    }
    assert replaced(tmp_path, TEXT, values) == (
        "# first\n"
        "a:\n"
        "  one: 'a longer text: with a colon' # of one\n"
        "  two: [p]          # of two\n"
        "  three: ' > '      # of three\n"
        "  four: {b: 1}\n"
        "  five: null    # of five\n"
        "b: false\n"
    )


@given(
    value=st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=8), max_size=3)
)
def test_any_value_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    text = replaced(tmp_path_factory.getbasetemp(), TEXT, {("a", "two"): value})
    assert yaml.safe_load(text)["a"]["two"] == value
    assert "# of two" in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {b: &x 1}\nc: *x\n", "cannot be replaced without changing more than that"),
        ("d: &d {b: 1}\na: *d\n", "cannot be replaced without changing more than that"),
        ("a:\n  b:\n    - 1\n    - 2\n", "a.b: expected a value on one line"),
        ("a: {c: 1}\n", "a.b: missing"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_what_cannot_be_replaced_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        replaced(tmp_path, text, {("a", "b"): 3})


def test_the_projects_own_file(tmp_path: Path) -> None:
    content = (ROOT / "params.yaml").read_text(encoding="utf-8")
    changed = replaced(
        tmp_path, content, {("crawl", "files", "columns", "category"): ["a", "b"], ("train", "epochs"): 3}
    )
    lines = [pair for pair in zip(content.splitlines(), changed.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(lines) == 2
    assert all(old.partition("#")[2] == new.partition("#")[2] for old, new in lines)
