"""Measures a client: CPU and time per image, and memory, of all its processes.

The start-up is excluded by the difference of two runs, one of them with few images.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.fetching.clients import urls

IMG2DATASET = "1.47.0"
FEW = 20  # images of the run whose cost is start-up


@dataclass(frozen=True)
class Cost:
    """The cost of one client in one round."""

    cpu_ms: float  # per image, user and system
    per_s: float  # images
    peak_mb: float  # resident, of the largest process


@dataclass(frozen=True)
class _Run:
    cpu_s: float
    wall_s: float
    peak_mb: float
    output: str


def cost(client: str, port: int, count: int, work: Path) -> Cost:
    """Run ``client`` for FEW and for FEW + ``count`` images."""
    few, many = (run(client, port, number, work) for number in (FEW, FEW + count))
    return Cost(1000 * (many.cpu_s - few.cpu_s) / count, count / (many.wall_s - few.wall_s), many.peak_mb)


def run(client: str, port: int, count: int, work: Path) -> _Run:
    """Run ``client`` once, in a new folder."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        command = _command(client, port, count, Path(folder))
        started = time.perf_counter()
        with (
            tempfile.TemporaryFile("w+") as said,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
        ):
            output = process.stdout.read() if process.stdout else ""
            _, status, usage = os.wait4(process.pid, 0)  # with the children that it waited for
            process.returncode = os.waitstatus_to_exitcode(status)
            said.seek(0)
            if process.returncode:
                sys.exit(f"benchmarks.fetch: {client} failed:\n{said.read()[-2000:]}")
        wall_s = time.perf_counter() - started
        kept = _kept(Path(folder))
        if kept != count:
            sys.exit(f"benchmarks.fetch: expected {count} images of {client}, got {kept}")
    return _Run(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss / 1024, output)


def _kept(folder: Path) -> int:
    """The number of images that a client has stored in ``folder``."""
    shards, statistics = list(folder.glob("shards/*.parquet")), list(folder.rglob("*_stats.json"))
    if shards:
        return sum(pq.read_metadata(path).num_rows for path in shards)
    if statistics:  # of img2dataset
        return sum(json.loads(path.read_text())["successes"] for path in statistics)
    return sum(1 for _ in folder.rglob("*.jpg"))


def install_img2dataset(folder: Path) -> Path:
    """The program in a separate venv, because its requirements conflict with ours; created once."""
    venv = folder / f"img2dataset-{IMG2DATASET}"
    program = venv / "bin/img2dataset"
    if not program.exists():
        print(f"installing img2dataset {IMG2DATASET} into {venv} ...", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [str(venv / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"img2dataset=={IMG2DATASET}"], check=True)
    return program


def _command(client: str, port: int, count: int, folder: Path) -> list[str]:
    if not client.startswith("img2dataset"):
        return [sys.executable, "-m", "benchmarks.fetching.clients", client, str(port), str(count), str(folder)]
    program = install_img2dataset(folder.parent)
    listed = folder / "urls.txt"
    listed.write_text("\n".join(urls(port, count)))
    if client == "img2dataset_parquet":
        how = ["--output_format", "parquet", "--image_size", "256"]
    else:
        how = ["--output_format", "files", "--resize_mode", "no", "--skip_reencode", "True"]
    given = {"url_list": listed, "input_format": "txt", "output_folder": folder / "out"}
    given |= {"processes_count": 1, "thread_count": 64, "enable_wandb": False, "retries": 0}
    return [str(program), *how, *(f"--{name}={value}" for name, value in given.items())]
