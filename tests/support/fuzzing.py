"""Fuzzes the parsers with atheris: ``python -m tests.support.fuzzing --seconds 60 [TARGET ...]``.

Coverage of the code guides the inputs. Each target runs in a child process. An input that fails is in
``.atlas/fuzz/<target>``; add it to ``FOUND`` in tests/faults/test_fuzzing.py.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

WORK = ROOT / ".atlas/fuzz"
MAX_LEN = 4096  # bytes of an input


def fuzz(name: str, seconds: int, folder: Path = WORK) -> subprocess.CompletedProcess[str]:
    """Fuzz a target; returns how its process ended."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    program = f"from tests.support.fuzzing import run; run({name!r})"
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_LEN}", "-timeout=20", "-rss_limit_mb=2048"]
    command = [sys.executable, "-c", program, *options, f"-artifact_prefix={folder / name}/"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def run(name: str) -> None:
    """Fuzz a target in this process, with libFuzzer's options in the command line."""
    import atheris  # type: ignore[import-untyped, unused-ignore]  # installed for this alone: see CONTRIBUTING.md

    with atheris.instrument_imports(include=["atlas_model", "crawlers"]):  # and no libraries, which takes minutes
        from tests.support.fuzz_targets import TARGETS
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Fuzz all targets, or those that are named; the number of those that failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    failed = 0
    from tests.support.fuzz_targets import TARGETS

    for name in options.targets or TARGETS:
        done = fuzz(name, options.seconds)
        failed += done.returncode != 0
        print(name, done.returncode, (done.stderr.splitlines() or [""])[-1], flush=True)
        if done.returncode:
            print("\n".join(done.stderr.splitlines()[-40:]))
    return failed


if __name__ == "__main__":
    sys.exit(main())
