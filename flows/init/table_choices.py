"""The parameters of a table: its columns, and the name of the snapshot."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from crawlers.files.roles import ColumnGuess
from flows.init.choices import Choice


def columns_by_role(given: Sequence[str]) -> dict[str, list[str]]:
    """The columns that were given as ``role=name``."""
    named: dict[str, list[str]] = {}
    for text in given:
        role, _, name = text.partition("=")
        named.setdefault(role.strip(), []).append(name.strip())
    return named


def choose_columns(guess: ColumnGuess) -> list[Choice]:
    """The keys of the table's columns; a role without a column is null."""
    chosen = [
        Choice(f"crawl.files.columns.{role}", column or None, guess.reasons.get(role, "" if column else "none found"))
        for role, column in asdict(guess.columns).items()
    ]
    return [*chosen, Choice("crawl.files.separator", guess.separator, guess.reasons.get("separator", ""))]


def snapshot_name(source: Path) -> str:
    """The name of the first snapshot of ``source``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-.")[:60]
    return f"{name or 'files'}-1"
