"""Compares clients that download images: CPU, rate and memory.

5,000 JPEGs of 600x800 px and about 25 kB, from nginx on loopback, and from a server that responds after 50 ms. CPU is
that of all processes of the client, user and system, per image, without start-up. The clients run in turns; results are
medians over the rounds, ratios are those of the same round. ``atlas`` is the whole stage fetch: address checks,
robots.txt, validation, spool, and writing of Parquet. The others store the bytes without validation (except
img2dataset, which decodes and resizes).

Measured once and not used (CPU per image, nothing stored): HTTP/2 helps httpx (1.05 ms against 3.6 with HTTP/1.1), but
aiohttp, without HTTP/2, takes 0.12. uvloop saves 7 % of the CPU of the stage, which does not justify a dependency that
is not available on every system.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import linear_regression, median

from benchmarks.fetching.measure import FEW, Cost, cost, run
from benchmarks.fetching.servers import delaying, make_images, nginx
from benchmarks.report import report

WORK = Path(".atlas/benchmarks").resolve()
IMAGES, ROUNDS, LATENCY_S = 5_000, 5, 0.05
MANY = 100_000  # small images, for the memory
AT_0_MS = {  # client: images, rounds; fewer suffice for the slow ones
    "sequential": (1_000, 1),
    "requests_threads": (2_000, 1),
    "scrapy_files": (3_000, 1),
    "img2dataset_plain": (2_000, 1),
    "img2dataset_parquet": (2_000, 3),
    "bare_aiohttp": (IMAGES - 100, ROUNDS),
    "atlas": (IMAGES - 100, ROUNDS),
}
AT_50_MS = {
    "sequential": (200, 1),
    "requests_threads": (2_000, 1),
    "scrapy_files": (3_000, 1),
    "img2dataset_plain": (2_000, 1),
    "bare_aiohttp": (IMAGES - 100, ROUNDS),
    "atlas": (IMAGES - 100, ROUNDS),
}


def main() -> None:
    """Measure all, or the memory alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of the clients that matter (default {ROUNDS})")
    rounds = parser.parse_args().rounds
    images = WORK / "images"
    print(f"making {IMAGES} images in {images}, unless they are there", flush=True)
    make_images(images, IMAGES)

    with nginx(images, WORK) as port:
        quick = _measure(AT_0_MS, port, rounds, "nginx")
    with delaying(images, LATENCY_S) as port:
        slow = _measure(AT_50_MS, port, rounds, "50 ms")
    peak_mb, slope = _memory(images)

    rows = _rows(quick, "nginx") + _rows(slow, "50 ms")
    figures = {
        "cpu_vs_aiohttp": _ratio(quick["atlas"], quick["bare_aiohttp"], "cpu_ms"),
        "cpu_vs_img2dataset_parquet": _ratio(quick["atlas"], quick["img2dataset_parquet"], "cpu_ms"),
        "latency_speedup_vs_sequential": median(each.per_s for each in slow["atlas"]) / slow["sequential"][0].per_s,
        "latency_throughput_vs_aiohttp": _ratio(slow["atlas"], slow["bare_aiohttp"], "per_s"),
        "peak_rss_mb": max(peak_mb, *(each.peak_mb for each in quick["atlas"])),
        "rss_slope_mb_per_100k": slope,
    }
    units = {"peak_rss_mb": "MB", "rss_slope_mb_per_100k": "MB"}
    report("fetch", rows + [(name, value, units.get(name, "x")) for name, value in figures.items()], figures)


def _measure(clients: dict[str, tuple[int, int]], port: int, rounds: int, where: str) -> dict[str, list[Cost]]:
    costs: defaultdict[str, list[Cost]] = defaultdict(list)
    for number in range(rounds):
        for client, (count, its_rounds) in clients.items():
            if number == 0:
                run(client, port, FEW, WORK)  # its first start reads its modules from the disk
            if number < its_rounds:
                found = cost(client, port, count, WORK)
                costs[client].append(found)
                text = f"{found.cpu_ms:.2f} ms of CPU, {found.per_s:.0f}/s, {found.peak_mb:.0f} MB"
                print(f"{where}, round {number + 1}, {client}: {text}", flush=True)
    return dict(costs)


def _memory(images: Path) -> tuple[float, float]:
    """Peak memory (MB) of a run over MANY small images, and its growth per 100,000 images."""
    with delaying(images, 0) as port:
        print(f"{MANY} small images ...", flush=True)
        found = run("atlas_small", port, MANY, WORK)
    points = [tuple(map(float, line.split())) for line in found.output.splitlines()]
    settled = [(done, mb) for done, mb in points if done >= MANY / 10]
    slope = linear_regression(*zip(*settled, strict=True)).slope
    return found.peak_mb, slope * 100_000


def _ratio(ours: list[Cost], others: list[Cost], what: str) -> float:
    """The median of the ratios over the rounds of both clients."""
    ratios: list[float] = [getattr(our, what) / getattr(other, what) for our, other in zip(ours, others, strict=False)]
    return median(ratios)


def _rows(costs: dict[str, list[Cost]], where: str) -> list[tuple[str, float, str]]:
    rows = []
    for client, its in costs.items():
        rows.append((f"{where}: {client}", median(each.per_s for each in its), "images/s"))
        rows.append((f"{where}: {client}", median(each.cpu_ms for each in its), "ms of CPU per image"))
    return rows


if __name__ == "__main__":
    main()
