"""Estimates the costs of a catalogue: hours, disk and dollars, from measured times per image and assumed prices.

``python -m tools.costs`` prints the table of docs/scale.md; options replace the sizes and prices.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS, HOURS = 3600, 730  # per hour; per month


@dataclass(frozen=True)
class Prices:
    """Assumed, rounded, in US dollars, November 2026: machines rented by the hour, without reservation."""

    vcpu_hour: float = 0.04
    gpu_hour: float = 2.5
    gb_month: float = 0.023  # in object storage
    disk_gb_month: float = 0.08  # during the run


@dataclass(frozen=True)
class Stage:
    """What a stage costs per image; docs/scale.md has the sources."""

    name: str
    cpu_ms: float  # of one vCPU, per image
    share: float = 1.0  # of the images
    gpu_per_s: float = 0.0  # images per second on a GPU, if the stage can use one
    most_vcpus: float = math.inf  # more than these do not help
    per_host: bool = False  # limited by IMAGES_PER_HOST requests


STAGES = (
    Stage("crawl", 6.1, share=0.7, most_vcpus=1, per_host=True),  # pages
    Stage("fetch", 3.0, per_host=True),
    Stage("zoom", 24.4),
    Stage("split", 12.9, most_vcpus=12),
    Stage("train", 740.0, share=0.63 * 12, gpu_per_s=800.0),  # 70 % of the 90 % that are no close-ups; 12 epochs
    Stage("evaluate", 250.0, share=0.27, gpu_per_s=2400.0),
    Stage("predict", 250.0, gpu_per_s=2400.0),
)
IMAGES_PER_HOST = 32.0  # per second: 8 at a time, each in 0.25 s
KB = {"as served": 126.0, "split, 256 px": 77.7, "spool": 126.0, "pixels": 177.0}  # per image; the last two: .atlas
STORED = ("as served", "split, 256 px")  # in DVC's remote


@dataclass(frozen=True)
class Size:
    """A catalogue, and the machines for it."""

    images: float
    hosts: int
    vcpus: int
    gpus: int
    runner: str = "yours"  # `pipeline.runner`
    all_parallel: bool = False  # as if every stage could use all vCPUs


ABOUT = (
    "Estimates the costs of a catalogue: hours, disk and dollars. Give --images, --hosts, --vcpus and --gpus for one "
    "catalogue, or none of them for the sizes of docs/scale.md."
)
SIZE_HELP = {
    "images": "images in the catalogue",
    "hosts": "hosts that serve them",
    "vcpus": "rented vCPUs",
    "gpus": "rented GPUs",
}
PRICE_HELP = {
    "vcpu_hour": "vCPU and hour",
    "gpu_hour": "GPU and hour",
    "gb_month": "GB and month in object storage",
    "disk_gb_month": "GB and month on disk",
}
SIZES = (
    Size(184e3, 6, 16, 1, "threads"),
    Size(10e6, 200, 128, 4, "dask for fetch, else threads"),
    Size(1e9, 5000, 2048, 32, "dask or ray", all_parallel=True),
)


def hours(stage: Stage, size: Size) -> float:
    """Duration of ``stage``."""
    images = size.images * stage.share
    if stage.gpu_per_s and size.gpus:
        seconds = images / (stage.gpu_per_s * size.gpus)
    else:
        vcpus = size.vcpus if size.all_parallel else min(size.vcpus, stage.most_vcpus)
        seconds = images * stage.cpu_ms / 1000 / vcpus
    if stage.per_host:
        seconds = max(seconds, images / (IMAGES_PER_HOST * size.hosts))
    return seconds / SECONDS


def dollars(stage: Stage, size: Size, prices: Prices) -> float:
    """Price of the machine time in which ``stage`` computes; idle machines are returned."""
    images = size.images * stage.share
    if stage.gpu_per_s and size.gpus:
        return images / stage.gpu_per_s / SECONDS * prices.gpu_hour
    return images * stage.cpu_ms / 1000 / SECONDS * prices.vcpu_hour


def terabytes(size: Size, parts: Sequence[str]) -> float:
    """Size of ``parts`` of all images."""
    return size.images * sum(KB[part] for part in parts) / 1e9


def table(sizes: Sequence[Size], prices: Prices) -> str:
    """The table in Markdown."""
    lines = [
        ["", *(f"{size.images:,.0f} images{', all stages parallel' * size.all_parallel}" for size in sizes)],
        ["---"] * (len(sizes) + 1),
        ["hosts; vCPUs; GPUs", *(f"{size.hosts:,}; {size.vcpus:,}; {size.gpus}" for size in sizes)],
        ["runner", *(size.runner for size in sizes)],
        ["shards of 1,024", *(f"{-(-size.images // 1024):,.0f}" for size in sizes)],
    ]
    for stage in STAGES:
        cells = [f"{hours(stage, size):,.2f} h, ${dollars(stage, size, prices):,.2f}" for size in sizes]
        lines.append([stage.name, *cells])
    totals = [(sum(hours(s, z) for s in STAGES), sum(dollars(s, z, prices) for s in STAGES)) for z in sizes]
    disks = [terabytes(size, tuple(KB)) for size in sizes]
    rented = [1000 * tb * prices.disk_gb_month / HOURS * time for tb, (time, _) in zip(disks, totals, strict=True)]
    kept = [1000 * terabytes(size, STORED) * prices.gb_month for size in sizes]
    lines.append(["**all stages**", *(f"**{time:,.1f} h, ${money:,.2f}**" for time, money in totals)])
    lines.append(
        ["disk during the run", *(f"{tb:,.2f} TB, ${money:,.2f}" for tb, money in zip(disks, rented, strict=True))]
    )
    lines.append(["DVC remote, per month", *(f"${money:,.2f}" for money in kept)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for the sizes of docs/scale.md, or for one given catalogue."""
    parser = argparse.ArgumentParser(prog="python -m tools.costs", description=ABOUT)
    numbers = {name: kind for name, kind in Size.__annotations__.items() if kind in (int, float)}
    for name, kind in numbers.items():
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=SIZE_HELP[name])
    for name, default in vars(Prices()).items():
        option = f"--{name.replace('_', '-')}"
        text = f"US dollars per {PRICE_HELP[name]} (default: %(default)s)"
        parser.add_argument(option, type=float, default=default, metavar="PRICE", help=text)
    parser.add_argument("--all-parallel", action="store_true", help="assume that crawl and split can use all vCPUs")
    given = vars(parser.parse_args(arguments))
    own = [given[name] for name in numbers]
    if any(number is not None for number in own) and None in own:
        parser.error("--images, --hosts, --vcpus and --gpus: expected all four or none")
    sizes: Sequence[Size] = SIZES
    if None not in own:
        sizes = [Size(**{name: given[name] for name in numbers}, all_parallel=given["all_parallel"])]
    print(table(sizes, Prices(**{name: given[name] for name in vars(Prices())})))


if __name__ == "__main__":
    main()
