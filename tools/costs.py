"""What a catalogue of a given size costs: hours, disk and money, from figures per image and assumed prices.

``python -m tools.costs`` prints the table of docs/scale.md; its options put your own numbers in. It multiplies and
divides, no more, and knows nothing of Atlas but the figures below.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS, HOURS = 3600, 730  # of an hour; of a month


@dataclass(frozen=True)
class Prices:
    """Assumed in November 2026, round, in US dollars: rented by the hour, nothing reserved."""

    vcpu_hour: float = 0.04
    gpu_hour: float = 2.5
    gb_month: float = 0.023  # in object storage
    disk_gb_month: float = 0.08  # while it runs


@dataclass(frozen=True)
class Stage:
    """What a stage takes for an image; where from, docs/scale.md says."""

    name: str
    cpu_ms: float  # of one vCPU
    share: float = 1.0  # of the images
    gpu_per_s: float = 0.0  # images that a GPU does instead
    most_vcpus: float = math.inf  # that it can use, however many there are
    per_host: bool = False  # shops are asked, at IMAGES_PER_HOST


STAGES = (
    Stage("crawl", 6.1, share=0.7, most_vcpus=1, per_host=True),  # pages
    Stage("fetch", 3.0, per_host=True),
    Stage("zoom", 24.4),
    Stage("split", 12.9, most_vcpus=12),
    Stage("train", 740.0, share=0.63 * 12, gpu_per_s=800.0),  # 70 % of the 90 % that are not zoomed; 12 epochs
    Stage("evaluate", 250.0, share=0.27, gpu_per_s=2400.0),
    Stage("predict", 250.0, gpu_per_s=2400.0),
)
IMAGES_PER_HOST = 32.0  # a second: 8 at once, each after 0.25 s
KB = {"as served": 126.0, "split, 256 px": 77.7, "spool": 126.0, "pixels": 177.0}  # an image; the last two: .atlas
STORED = ("as served", "split, 256 px")  # in DVC's remote


@dataclass(frozen=True)
class Size:
    """A catalogue, and the machines for it."""

    images: float
    hosts: int
    vcpus: int
    gpus: int
    engine: str = "yours"  # `pipeline.runner`
    all_spread: bool = False  # every stage uses all vCPUs, also those that cannot yet


SIZES = (
    Size(184e3, 6, 16, 1, "threads"),
    Size(10e6, 200, 128, 4, "dask for fetch, else threads"),
    Size(1e9, 5000, 2048, 32, "dask or ray", all_spread=True),
)


def hours(stage: Stage, size: Size) -> float:
    """How long ``stage`` takes."""
    images = size.images * stage.share
    if stage.gpu_per_s and size.gpus:
        seconds = images / (stage.gpu_per_s * size.gpus)
    else:
        vcpus = size.vcpus if size.all_spread else min(size.vcpus, stage.most_vcpus)
        seconds = images * stage.cpu_ms / 1000 / vcpus
    if stage.per_host:
        seconds = max(seconds, images / (IMAGES_PER_HOST * size.hosts))
    return seconds / SECONDS


def dollars(stage: Stage, size: Size, prices: Prices) -> float:
    """What is paid for the time that ``stage`` computes; machines that wait are given back."""
    images = size.images * stage.share
    if stage.gpu_per_s and size.gpus:
        return images / stage.gpu_per_s / SECONDS * prices.gpu_hour
    return images * stage.cpu_ms / 1000 / SECONDS * prices.vcpu_hour


def terabytes(size: Size, parts: Sequence[str]) -> float:
    """What ``parts`` of an image's bytes take."""
    return size.images * sum(KB[part] for part in parts) / 1e9


def table(sizes: Sequence[Size], prices: Prices) -> str:
    """All of it, in Markdown."""
    lines = [
        ["", *(f"{size.images:,.0f} images{', all stages spread' * size.all_spread}" for size in sizes)],
        ["---"] * (len(sizes) + 1),
        ["hosts; vCPUs; GPUs", *(f"{size.hosts:,}; {size.vcpus:,}; {size.gpus}" for size in sizes)],
        ["engine", *(size.engine for size in sizes)],
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
    lines.append(["disk meanwhile", *(f"{tb:,.2f} TB, ${money:,.2f}" for tb, money in zip(disks, rented, strict=True))])
    lines.append(["kept in a remote, a month", *(f"${money:,.2f}" for money in kept)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for the sizes of docs/scale.md, or for one of yours."""
    parser = argparse.ArgumentParser(prog="python -m tools.costs", description=str(__doc__).partition("\n")[0])
    numbers = {name: kind for name, kind in Size.__annotations__.items() if kind in (int, float)}
    for name, kind in numbers.items():
        parser.add_argument(f"--{name}", type=kind, help="of one catalogue; all four or none")
    for name, default in vars(Prices()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default, metavar="$")
    parser.add_argument("--all-spread", action="store_true", help="as if crawl and split used all vCPUs, too")
    given = vars(parser.parse_args(arguments))
    own = [given[name] for name in numbers]
    if any(number is not None for number in own) and None in own:
        parser.error("--images, --hosts, --vcpus and --gpus go together")
    sizes = SIZES if None in own else (Size(*own, all_spread=given["all_spread"]),)
    print(table(sizes, Prices(**{name: given[name] for name in vars(Prices())})))


if __name__ == "__main__":
    sys.exit(main())
