"""Output of stages becomes log lines at their level."""

import io
import logging

import pytest

from flows.prefect_app.ui.log_relay import LONGEST_LINE, Lines, relay_to


def test_lines_become_log_records_at_their_level() -> None:
    info, warning, error = logging.INFO, logging.WARNING, logging.ERROR
    expected = [
        (info, "hello"),
        (error, "error: two faults"),
        (error, "  - one"),
        (warning, "WARNING slow: shop"),
        (error, "ERROR: failed"),
        (error, "Traceback (most recent call last):"),
        (error, "  File"),
        (error, "KeyError: 1"),
        (error, "During handling of the above exception, another exception occurred:"),
        (error, "Traceback (most recent call last):"),
        (error, "  File"),
        (error, "ValueError: no"),
        (info, "100 % done"),
        (info, "errors are rare"),
    ]
    logged: list[tuple[int, str]] = []
    relay = relay_to(lambda level, line: logged.append((level, line)))
    for _, line in expected:
        relay(line)
    assert logged == expected


def test_control_characters_are_left_out() -> None:
    logged: list[tuple[int, str]] = []
    relay_to(lambda level, line: logged.append((level, line)))("error: \x00\x1b[31m\udc80 \t|" + "x" * 20_000)
    ((level, line),) = logged
    assert level == logging.ERROR
    assert line.startswith("error: ��[31m�")
    assert line.isprintable()
    assert len(line) <= LONGEST_LINE + 8


def test_progress_bars_are_left_out() -> None:
    lines: list[str] = []
    below = io.StringIO()
    stream = Lines(lines.append, below)
    stream.write("one\ntw")
    stream.write("o\n\n\r10 %|#   |\r20 %|##  |\rthree\nfour")
    assert lines == ["one", "two", "three"]
    assert below.getvalue() == "one\ntwo\n\n\r10 %|#   |\r20 %|##  |\rthree\nfour"
    assert not stream.isatty()
    alone = Lines(lines.append)
    assert alone.write("five\n") == 5
    assert lines[-1] == "five"
    with pytest.raises(OSError, match="fileno"):
        alone.fileno()
