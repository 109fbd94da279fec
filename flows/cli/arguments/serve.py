"""`atlas serve`."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.cli.arguments.types import positive


def add(commands: Any) -> None:
    """Add the subcommand."""
    serving = commands.add_parser(
        "serve",
        help="answer prediction requests over HTTP, and show a page to try the model",
        description="Answer prediction requests over HTTP (docs/serving.md), and show a page to try the model. If the "
        "champion changes, the service uses the new one, without a failed request.",
    )
    serving.add_argument("--model", metavar="DIR", help="see atlas predict --help")
    serving.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on. Elsewhere than on loopback, requests need the token in the environment variable "
        "ATLAS_TOKEN; without one, a token is made and printed (default: %(default)s)",
    )
    serving.add_argument("--port", type=_port, default=8080, help="0: a free port (default: %(default)s)")
    serving.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        dest="allowed_hosts",
        metavar="NAME",
        help="a further name by which clients reach the service, such as that of a reverse proxy; repeatable",
    )
    serving.add_argument(
        "--engine",
        choices=("auto", "torch", "onnxruntime", "onnxruntime-int8", "openvino"),
        default="auto",
        help="library that runs the encoder; auto: the fastest one installed, measured once per machine "
        "(default: %(default)s)",
    )
    serving.add_argument(
        "--allow-urls",
        action="store_true",
        help="fetch images that requests name by URL, by the crawler's rules in params.yaml",
    )
    serving.add_argument(
        "--reviews", type=Path, metavar="DIR", help="folder for feedback; default: data/reviews of the project"
    )
    limits = serving.add_argument_group("limits")
    limits.add_argument(
        "--max-batch", type=positive, default=32, metavar="N", help="images predicted together (default: %(default)s)"
    )
    limits.add_argument(
        "--max-wait",
        type=_milliseconds,
        default=5.0,
        metavar="MS",
        help="how long an image waits for others, in ms (default: %(default)s)",
    )
    limits.add_argument(
        "--max-queue", type=positive, default=512, metavar="N", help="images that wait; then 503 (default: %(default)s)"
    )
    limits.add_argument(
        "--max-requests",
        type=positive,
        default=128,
        metavar="N",
        help="requests at once; then 503 (default: %(default)s)",
    )
    limits.add_argument(
        "--max-images", type=positive, default=64, metavar="N", help="images of a request (default: %(default)s)"
    )
    limits.add_argument(
        "--max-image-bytes", type=_bytes, default=20_000_000, metavar="N", help="of one image (default: %(default)s)"
    )
    limits.add_argument(
        "--max-body-bytes", type=_bytes, default=64_000_000, metavar="N", help="of a request (default: %(default)s)"
    )
    limits.add_argument(
        "--max-pixels", type=_bytes, default=40_000_000, metavar="N", help="of one image (default: %(default)s)"
    )
    limits.add_argument(
        "--timeout", type=_seconds, default=15.0, metavar="S", help="seconds of a request (default: %(default)s)"
    )
    limits.add_argument(
        "--drain",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="seconds after SIGTERM or Ctrl-C in which requests are still accepted, while /v2/health/ready is 503 "
        "(default: %(default)s)",
    )
    serving.set_defaults(command=run_serve)


def run_serve(
    *,
    max_batch: int,
    max_wait: float,
    max_queue: int,
    max_requests: int,
    max_images: int,
    max_image_bytes: int,
    max_body_bytes: int,
    max_pixels: int,
    timeout: float,
    drain: float,
    **options: Any,
) -> int:
    """See `flows.serve.command`."""
    from flows.cli.predict import engine_cache
    from flows.serve.command import serve
    from flows.serve.settings import Limits

    limits = Limits(
        max_batch=max_batch,
        max_wait_s=max_wait / 1000,
        max_queue=max_queue,
        max_images=max_images,
        max_image_bytes=max_image_bytes,
        max_pixels=max_pixels,
        max_body_bytes=max_body_bytes,
        max_requests=max_requests,
        timeout_s=timeout,
    )
    return serve(limits=limits, drain_s=drain, engine_cache=engine_cache(), **options)


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")


def _bytes(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 2**40:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 3600:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected seconds from 0 to 3600, got {text!r}")


def _milliseconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1000:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected milliseconds from 0 to 1000, got {text!r}")
