"""Measures the cost of orchestration: five trivial stages under DVC alone, under the flow, and the start of `make up`.

Baseline: `dvc repro` of the same project in the same run. Compared are: stages with the entry point of Atlas (validated
parameters, progress, exit codes) with `python -c pass`, with and without reading a parameter, which imports pydantic;
the flow with all stages up to date and with all stages to run, with a running Prefect server; and `make up` with a new
database, until the UI is served and runs can be created.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import yaml

from benchmarks.report import paired_medians, report
from flows.prefect_app.server import Server

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3
STAGES = ("crawl", "fetch", "zoom", "split", "train")  # the names of sections of params.yaml
OURS = "import flows.stages.entry; flows.stages.entry.main(lambda params: None)"
READING = "import flows.stages.entry; flows.stages.entry.main(lambda params: params.split)"
PLAIN = "pass"
UP = [sys.executable, "-m", "flows.prefect_app.up", "--port", "0"]


def main() -> None:
    """Run the benchmark."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "prefect").mkdir()
        plain, ours = _project(folder / "plain", PLAIN), _project(folder / "ours", OURS)
        reading = _project(folder / "reading", READING)
        repro = paired_medians(
            RUNS,
            plain=lambda: _dvc(plain, "--force"),
            ours=lambda: _dvc(ours, "--force"),
            reading=lambda: _dvc(reading, "--force"),
        )
        with _served(folder / "prefect") as api:
            _flow(ours, api)
            noop = paired_medians(RUNS, dvc=lambda: _dvc(ours), flow=lambda: _flow(ours, api))
            full = paired_medians(RUNS, dvc=lambda: _dvc(_changed(ours)), flow=lambda: _flow(_changed(ours), api))
        up = [_up(_project(folder / f"up{run}", OURS)) for run in range(RUNS)]
    figures = {
        "repro_vs_plain_dvc": repro["ours"] / repro["plain"],
        "repro_reading_vs_plain_dvc": repro["reading"] / repro["plain"],
        "repro_s": repro["ours"],
        "flow_noop_extra_s": noop["flow"] - noop["dvc"],
        "noop_s": noop["dvc"],
        "flow_extra_s_per_changed_stage": (full["flow"] - full["dvc"]) / len(STAGES),
        "full_s": full["dvc"],
        "up_s": sorted(up)[RUNS // 2],
    }
    units = {"repro_vs_plain_dvc": "x", "repro_reading_vs_plain_dvc": "x"}
    report("orchestration", [(key, value, units.get(key, "s")) for key, value in figures.items()], figures)


def _project(folder: Path, program: str) -> Path:
    """Create a DVC project with our settings and a chain of stages that only run ``program``."""
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore", "params.yaml"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / "program.py").write_text(program)
    (folder / "start").write_text("")
    stages = {
        stage: {"cmd": f"{sys.executable} program.py && : > {stage}", "deps": [before, "serial"], "outs": [stage]}
        for before, stage in zip(("start", *STAGES), STAGES, strict=False)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (folder / "serial").write_text("0")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def _changed(folder: Path) -> Path:
    """Change a file in ``folder`` that every stage depends on."""
    serial = folder / "serial"
    serial.write_text(str(int(serial.read_text()) + 1))
    return folder


def _dvc(folder: Path, *options: str) -> None:
    _run(folder, ["-m", "dvc", "repro", "--quiet", *options])


def _flow(folder: Path, api: str) -> None:
    _run(folder, ["-m", "flows.prefect_app.flow"], PREFECT_API_URL=api)


def _run(folder: Path, arguments: list[str], **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**_environment(), "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Run a Prefect server; yields the URL of its API."""
    with Server(folder, 0, 30, _environment()) as server:
        server.start()
        server.wait_until_healthy()
        yield f"{server.url}/api"


def _up(folder: Path) -> float:
    """Seconds from `make up` to a served UI, with a new database."""
    started = perf_counter()
    with subprocess.Popen(UP, cwd=folder, env=_environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("UI: "):
                seconds = perf_counter() - started
                process.terminate()
                process.stderr.read()
                return seconds
    sys.exit("".join(lines))


def _environment() -> dict[str, str]:
    """The environment without the URL of a Prefect server."""
    return {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}


if __name__ == "__main__":
    main()
