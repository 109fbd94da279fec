"""Runs a check over numbered inputs in child processes, with limits of time and memory for each input.

A child that dies of a signal, hangs, or raises fails that input only; the next one begins in a new child. The inputs of
a kind are made from their numbers, so that a failed one can be made again: ``python -m tests.support.isolated_runs KIND
FIRST LAST FOLDER``.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from atlas_model.core.errors import AtlasError, InputError

ADDRESS_SPACE_GB = 24  # of a child: a last resort against one that would take the machine's memory
MAX_CRASHES = 20  # of children, after which a run ends


@dataclass(frozen=True)
class Kind:
    """A kind of inputs.

    Attributes:
        make: makes an input from its number's random generator.
        check: reads an input with the real functions, and asserts that the result is right; returns the outcome, such
            as ``ok`` or the reason for which it was discarded. An `InputError` is an outcome, too.
    """

    make: Callable[[Random], Any]
    check: Callable[[Any, Path], str]


@dataclass
class Report:
    """What a run found."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)  # CPU seconds, number
    largest: tuple[float, int] = (0.0, -1)  # MB that an input took at its peak, number

    @property
    def text(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{outcome} {count}" for outcome, count in self.outcomes.most_common())
        return (
            f"{self.outcomes.total()} inputs, {len(self.faults)} faults; slowest {self.slowest[0]:.2f} s of CPU time "
            f"(number {self.slowest[1]}), largest {self.largest[0]:.0f} MB (number {self.largest[1]}); {counts}"
        )


def run_inputs(kind: str, numbers: Iterable[int], folder: Path, *, cpu_s: float, wall_s: float, mb: float) -> Report:
    """Check inputs of ``kind``, which is ``module:name`` of a `Kind` in tests.support.

    Args:
        kind: of the inputs.
        numbers: consecutive numbers.
        folder: for the files of the checks.
        cpu_s: limit of CPU time for an input; a busy machine does not change it.
        wall_s: after this time an input counts as one that hangs.
        mb: limit of the memory that an input takes at its peak.
    """
    waiting = list(numbers)
    report = Report()
    folder.mkdir(parents=True, exist_ok=True)
    while waiting and report.outcomes["crash"] < MAX_CRASHES:
        for line in _child(kind, waiting[0], waiting[-1], folder, wall_s):
            number = line["number"]
            report.outcomes[line["outcome"]] += 1
            report.slowest = max(report.slowest, (line["cpu_s"], number))
            report.largest = max(report.largest, (line["mb"], number))
            for what, limit in (("cpu_s", cpu_s), ("mb", mb)):
                if line[what] > limit:
                    report.faults.append(f"{kind} {number}: {line[what]:.1f} {what}, more than {limit}")
            if line["fault"]:
                report.faults.append(f"{kind} {number}: {line['fault']}")
            waiting.remove(number)
    return report


def _child(kind: str, first: int, last: int, folder: Path, wall_s: float) -> Iterator[dict[str, Any]]:
    """The results of a child; if it dies or hangs, a last one about the input that it was at."""
    command = [sys.executable, "-X", "faulthandler", "-m", __spec__.name if __spec__ else __name__]
    command += [kind, str(first), str(last), str(folder)]
    log = folder / "child.log"
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as child:
        assert child.stdout is not None
        number, buffer = first, b""
        try:
            while True:
                ready, _, _ = select.select([child.stdout], [], [], wall_s)
                read = os.read(child.stdout.fileno(), 65536) if ready else b""
                if not read:
                    break
                *lines, buffer = (buffer + read).split(b"\n")
                for text in lines:
                    result = json.loads(text)
                    number = result["number"] + 1
                    yield result
        finally:
            child.kill()
    if number <= last:
        how = f"ended with {child.returncode}" if ready else f"hung for {wall_s} s"
        told = log.read_text(errors="replace")[-3000:]
        yield {"number": number, "outcome": "crash", "cpu_s": 0, "mb": 0, "fault": f"the child {how}\n{told}"}


def load_kind(name: str) -> Kind:
    """The `Kind` of a name such as ``hostile_images:IMAGES``.

    The modules are tests.support.hostile_images, tests.support.hostile_pages, tests.support.hostile_texts and
    tests.support.hostile_binaries; they are imported in the children, too.
    """
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(f"tests.support.{module}"), attribute)
    assert isinstance(found, Kind)
    return found


def random_of(kind: str, number: int) -> Random:
    """The random generator of an input."""
    return Random(f"{kind} {number}")


def outcome_of(kind: Kind, made: Any, folder: Path) -> tuple[str, str]:
    """The outcome of an input, and what is wrong with it."""
    try:
        return kind.check(made, folder), ""
    except InputError as error:
        if not str(error).strip() or len(str(error)) > 110_000:
            return "error", f"a message of {len(str(error))} characters: {str(error)[:200]!r}"
        return type(error).__name__, ""
    except AtlasError as error:
        return type(error).__name__, f"expected an InputError for bad input, got {error!r}"
    except Exception as error:
        last = traceback.format_exc(limit=-6)
        return type(error).__name__, last[-3000:]


class Peak:
    """Measures the memory of this process at its peak, above what it had before. Use as a context manager."""

    def __enter__(self) -> "Peak":
        with contextlib.suppress(OSError):  # not Linux: the peak is that of the whole life then
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _kb("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.mb = max(0.0, (_kb("VmHWM") - self._before) / 1024)


def _kb(name: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def _misbehave(made: str, folder: Path) -> str:
    if made == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    while made == "hang":
        pass
    if made == "error":
        raise KeyError("no input error")
    if made == "refused":
        raise InputError("a reason")
    return str(len(bytes(made, "ascii") * (40_000_000 if made == "large" else 1))) and "ok"


FAULTY = Kind(lambda random: random.choice(("ok", "crash", "hang", "error", "large", "refused")), _misbehave)
"""For the tests of this module."""


def main(name: str, first: int, last: int, folder: Path) -> None:
    """Check the inputs from ``first`` to ``last``; write a line of JSON for each to stdout."""
    faulthandler.enable()
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print
    limit = ADDRESS_SPACE_GB * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    kind = load_kind(name)
    for number in range(first, last + 1):
        made = kind.make(random_of(name, number))
        started = time.process_time()
        with Peak() as peak:
            outcome, fault = outcome_of(kind, made, folder)
        line = {"number": number, "outcome": outcome, "fault": fault, "mb": round(peak.mb, 1)}
        results.write(json.dumps(line | {"cpu_s": round(time.process_time() - started, 3)}) + "\n")


if __name__ == "__main__":
    from tests.support.isolated_runs import main  # the kinds import this module, not ``__main__``

    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
