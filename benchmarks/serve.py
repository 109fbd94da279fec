"""Measures `atlas serve`: concurrent clients against one client, and against `atlas predict --input`.

A server process per model. The clients write prepared requests to sockets, so that they take little time of the same
processors. In each round, all loads run in turn, so that a change of the machine affects all of them: one client with
one image per request; 16 clients with one image per request; 16 clients with 32 images per request; and
`atlas predict --input` for the same images, with the same engine and batch size. A ratio is the median over the rounds.
The processor time per image of the server and of `atlas predict --input` hardly depends on what else the machine does.

Models: the demo's (`make run` trains it), with its images of 28 px; and the bundled one, with images of 224 px.
"""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

import flows  # noqa: F401 - before torch: it says how torch's threads wait
from atlas_model.core.errors import MissingError
from atlas_model.data.image_sources import open_source
from atlas_model.data.images import encode_png
from atlas_model.data.schemas import IMAGES, write_rows
from atlas_model.inference.batch import predict_all
from atlas_model.inference.predictor import Predictor
from benchmarks.report import report
from flows.paths import CATEGORIZER
from flows.registry.model_folders import bundled_model

SAMPLE = Path("data/sample.parquet")  # 28 x 28, grey
CLIENTS, PER_REQUEST, BATCH = 16, 32, 32
ROUNDS = 5
LOAD_S = float(os.environ.get("LOAD_S", "4"))
ENGINE = os.environ.get("ENGINE", "auto")


@dataclass
class Load:
    """What clients measured."""

    images: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Images per second."""
        return self.images / self.seconds


def main() -> None:
    """Run the benchmark."""
    if not CATEGORIZER.is_dir():
        raise MissingError(f"{CATEGORIZER}: expected the demo's model. Run: make run")
    cpu_load = os.getloadavg()[0]
    small = [encode_png(image) for image in _sample(2000)]
    large = [_jpeg(image) for image in _sample(400)]
    figures: dict[str, Any] = {"load_average_before": cpu_load}
    rows: list[tuple[str, float, str]] = [("load average before", cpu_load, "")]
    for name, folder, images in (("demo", CATEGORIZER, small), ("photographs", bundled_model(), large)):
        figures[name] = _measure(folder, images)
        rows += [(f"{name}: {key}", value, _unit(key)) for key, value in figures[name].items()]
    report("serve", rows, figures)


def _unit(key: str) -> str:
    return "/s" if key.endswith("per_s") else "ms" if key.endswith("ms") else "x"


def _sample(count: int) -> list[Image.Image]:
    pixels = pq.read_table(SAMPLE, columns=["pixels"])["pixels"][:count].to_pylist()
    return [Image.frombytes("L", (28, 28), each) for each in pixels]


def _jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _measure(folder: Path, images: list[bytes]) -> dict[str, float]:
    one = [_request([image]) for image in images[:256]]
    many = [_request(images[start : start + PER_REQUEST]) for start in range(0, len(images) - PER_REQUEST, PER_REQUEST)]
    rounds: list[dict[str, float]] = []
    sixteen = Load()
    with TemporaryDirectory() as temporary:
        row = {"width": 1, "height": 1, "format": "PNG", "mode": "L", "orientation": 1, "n_frames": 1}
        rows = ({"image_id": f"{number:05d}", "bytes": each, **row} for number, each in enumerate(images))
        write_rows(Path(temporary) / "in.parquet", rows, IMAGES)
        predictor = Predictor.load(folder, "cpu")
        predictor.accelerate(ENGINE, Path.home() / ".cache/atlas/engines")  # type: ignore[arg-type]  # a name
        command = [sys.executable, "-m", "flows.cli.main", "serve", "--port", "0", "--drain", "0", "--engine", ENGINE]
        with subprocess.Popen([*command, "--model", str(folder)], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            port = int(url.rstrip("/").rpartition(":")[2])
            for number in range(ROUNDS + 1):
                single = asyncio.run(_run(port, one, 1, 1))
                several = asyncio.run(_run(port, one, CLIENTS, 1))
                cpu = [_cpu_s(server.pid)]
                batches = asyncio.run(_run(port, many, CLIENTS, PER_REQUEST))
                cpu += [_cpu_s(server.pid), _cpu_s(os.getpid())]
                file_per_s = _file(predictor, Path(temporary), len(images))
                cpu += [_cpu_s(os.getpid())]
                if number:  # the first round warms up
                    sixteen.latencies += several.latencies
                    rounds.append(
                        {
                            "one_client_images_per_s": single.per_s,
                            "clients_images_per_s": several.per_s,
                            "clients_over_one": several.per_s / single.per_s,
                            "file_images_per_s": file_per_s,
                            "clients_over_file": several.per_s / file_per_s,
                            "batches_images_per_s": batches.per_s,
                            "batches_over_file": batches.per_s / file_per_s,
                            "batches_cpu_ms": 1000 * (cpu[1] - cpu[0]) / batches.images,
                            "file_cpu_ms": 1000 * (cpu[3] - cpu[2]) / len(images),
                            "one_client_p50_ms": 1000 * median(single.latencies),
                        }
                    )
            server.send_signal(signal.SIGTERM)
    figures = {key: median(each[key] for each in rounds) for key in rounds[0]}
    p50, p99 = np.percentile(sixteen.latencies, [50, 99])
    return figures | {"clients_p50_ms": 1000 * float(p50), "clients_p99_ms": 1000 * float(p99)}


def _request(images: list[bytes]) -> bytes:
    items = [{"images": [{"bytes": base64.b64encode(image).decode()}]} for image in images]
    body = json.dumps({"items": items}).encode()
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _run(port: int, requests: list[bytes], clients: int, images: int) -> Load:
    """Send requests for `LOAD_S` from each of ``clients``."""
    load = Load()
    end = perf_counter() + LOAD_S

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while perf_counter() < end:
            began = perf_counter()
            writer.write(requests[number % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
            load.latencies.append(perf_counter() - began)
            load.images += images
            number += clients
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    began = perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    load.seconds = perf_counter() - began
    return load


def _cpu_s(pid: int) -> float:
    """Processor time of a process, s."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _file(predictor: Predictor, folder: Path, images: int) -> float:
    began = perf_counter()
    predict_all(
        open_source(folder / "in.parquet"),
        folder / "out.parquet",
        prepare=predictor.prepare,
        side=predictor.side,
        predict=predictor.predict_prepared,
        model_key="",
        batch_size=BATCH,
    )
    return images / (perf_counter() - began)


if __name__ == "__main__":
    main()
