"""Editing values in a YAML file while keeping its comments and order."""

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from atlas_model.core.errors import InputError, ParamsError
from atlas_model.core.yaml_files import parse_text, parse_yaml, read_yaml, replace_values
from tests.support.paths import ROOT

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


def as_dvc_reads(text: str) -> Any:
    return YAML(typ="safe").load(text)


NUMBERS = [
    "1e-05",
    "1e-3",
    "1E5",
    "-1e+5",
    "1.5e-05",
    "1.",
    ".5",
    "-.5e3",
    ".inf",
    "-.Inf",
    ".nan",
    "010",
    "0o17",
    "0x1F",
]
OTHERS = [
    "1_000",
    "+3",
    "0b11",
    "1:30",
    "on",
    "Yes",
    "no",
    "off",
    "y",
    "true",
    "FALSE",
    "~",
    "null",
    "",
    "e5",
    "1e",
    ".",
]


@pytest.mark.parametrize("plain", [*NUMBERS, *OTHERS])
def test_plain_scalars_have_the_types_that_dvc_reads(plain: str) -> None:
    ours, dvcs = parse_text(f"a: {plain}\n")["a"], as_dvc_reads(f"a: {plain}\n")["a"]
    assert type(ours) is type(dvcs)
    assert ours == dvcs or ours != ours


@given(st.floats(allow_nan=False) | st.integers())
def test_reads_numbers_in_dvc_notation(number: float) -> None:
    buffer = io.StringIO()
    YAML(typ="safe").dump({"a": number}, buffer)
    assert parse_text(buffer.getvalue()) == {"a": number}


def test_reports_all_duplicate_keys(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a: {b: 1, b: 2}\nc:\n  - d: 1\n    'd': 2\na: 3\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="3 faults") as caught:
        parse_yaml(path, ParamsError)
    for told in ("a: duplicate key, on lines 1 and 5", "a.b: duplicate key, on lines 1 and 1", "c.d: duplicate key"):
        assert told in str(caught.value)


def test_merge_keys_and_aliases_are_not_duplicates() -> None:
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, a: 3}\nagain: *base\n"
    assert parse_text(text)["other"] == {"a": 3, "b": 2}


@pytest.mark.parametrize("text", ["a: 2026-13-45\n", f"a: {'9' * 5000}\n", "[" * 1200])
def test_refuses_invalid_dates_huge_integers_and_deep_nesting(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match="cannot be read as YAML"):
        parse_yaml(path, ParamsError)


def test_replaces_values_and_keeps_comments(tmp_path: Path) -> None:
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
def test_replaced_values_round_trip(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    text = replaced(tmp_path_factory.getbasetemp(), TEXT, {("a", "two"): value})
    assert parse_text(text)["a"]["two"] == value
    assert as_dvc_reads(text)["a"]["two"] == value
    assert "# of two" in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {b: &x 1}\nc: *x\n", "cannot be replaced without changing others"),
        ("d: &d {b: 1}\na: *d\n", "cannot be replaced without changing others"),
        ("a:\n  b:\n    - 1\n    - 2\n", "a.b: expected a value on one line"),
        ("a: {c: 1}\n", "a.b: missing"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_refuses_unreplaceable_values(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        replaced(tmp_path, text, {("a", "b"): 3})


def test_edits_params_of_the_project(tmp_path: Path) -> None:
    content = (ROOT / "params.yaml").read_text(encoding="utf-8")
    changed = replaced(
        tmp_path, content, {("crawl", "files", "columns", "category"): ["a", "b"], ("train", "epochs"): 3}
    )
    lines = [pair for pair in zip(content.splitlines(), changed.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(lines) == 2
    assert all(old.partition("#")[2] == new.partition("#")[2] for old, new in lines)


def test_aliases_that_stand_for_billions_of_values_are_an_error(tmp_path: Path) -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{chr(n)}: &{chr(n)} [{','.join([f'*{chr(n - 1)}'] * 9)}]" for n in range(ord("b"), ord("k"))]
    path = tmp_path / "bomb.yaml"
    for text, expected in (("\n".join(lines), "at most 1000000 values"), ("a: &a [*a]", "contains itself")):
        path.write_text(text)
        with pytest.raises(InputError, match=expected):
            parse_yaml(path)


def test_message_shows_the_beginning_of_a_long_value(tmp_path: Path) -> None:
    class Section(BaseModel):
        size: int

    path = tmp_path / "long.yaml"
    path.write_text(f"size: {'x' * 100_000}")
    with pytest.raises(InputError, match=r"got 'xxx.*\.\.\.") as error:
        read_yaml(path, Section)
    assert len(str(error.value)) < 1_000
