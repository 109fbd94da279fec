"""Fuzzing of the parsers, and the inputs that it found."""

import importlib.util
from pathlib import Path
from random import Random

import pytest

from tests.support.fuzz_targets import TARGETS
from tests.support.fuzzing import fuzz
from tests.support.mutations import NUMBERS, STRANGE, mutated_text

SECONDS = 60  # of each target in the soak
FOUND = [  # target, input that fuzzing or mutation found
    ("urls", b"//\xaf."),  # IDNA made it a host with a space
    ("urls", b"\\\\\\\\\0\0\\:"),  # a host of NULs
    ("taxonomies", b"#a,b\n"),  # a list index out of range
]


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_inputs_that_failed_once_pass(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_accept_strange_texts(name: str) -> None:
    random = Random(name)
    for text in (*STRANGE[:40], *NUMBERS):
        data = text.encode("utf-8", "surrogatepass")
        TARGETS[name](data)
        TARGETS[name](mutated_text(data, random)[:10_000])


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: .venv/bin/pip install atheris (CONTRIBUTING.md)")
    done = fuzz(name, SECONDS, tmp_path)
    print(f"\n{name}: {(done.stderr.splitlines() or [''])[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
