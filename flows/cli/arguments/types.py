"""Types of arguments, for `argparse`."""

import argparse
from contextlib import suppress

LARGEST = 1_000_000  # number that an option accepts: a larger one is a typing error


def positive(text: str) -> int:
    """A whole number from 1 to `LARGEST`."""
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {LARGEST}, got {text!r}")
    return int(text)


def probability(text: str) -> float:
    """A number from 0 to 1."""
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")


def accuracy(text: str) -> float:
    """A number between 0 and 1."""
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, such as 0.95, got {text!r}")
