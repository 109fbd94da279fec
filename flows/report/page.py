"""Fills in the templates of the report: one HTML file of limited size that loads nothing.

A Content-Security-Policy in the page allows its own style and script by their hashes, and images in the page itself.
Titles, categories and names of shops are untrusted: the templates escape them, and control characters are replaced.
"""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from atlas_model.core.errors import InputError
from atlas_model.split.names import SPLITS as SPLIT_NAMES
from atlas_model.taxonomy.tree import SEPARATOR
from flows.report.charts import reliability_chart, risk_chart
from flows.report.facts.categories import RANKED_FROM
from flows.report.facts.collect import Facts
from flows.report.facts.discards import NAMES as NAMES_OF_DISCARDS
from flows.report.facts.figures import NAMES, Figure
from flows.report.forest import forest
from flows.report.funnel import funnel
from flows.report.thumbnails import Thumbnail, Thumbnails, make_thumbnails
from flows.text import percent, printable
from flows.web.pages import STYLE, templates

FOLDER = Path(__file__).parent
OPEN_PAIRS = 6  # confused pairs that are shown at once; the others are folded
MOST_OPENED = 60  # categories of a taxonomy that is unfolded at the start
LONGEST_TEXT = 100  # characters of a title or name
RESERVE = 2_000  # bytes of the page for the note about images that are left out
UNKNOWN = "unknown"
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Texts:
    """What the user wrote about the report, in the section report of params.yaml; None: nothing."""

    title: str
    description: str | None
    contact: str | None
    license: str | None  # of the model
    data_license: str | None
    intended_use: str | None


@dataclass(frozen=True)
class Page:
    """The report."""

    html: str
    thumbnails: Thumbnails


def render_page(facts: Facts, texts: Texts, shards: Path, *, side: int, max_bytes: int) -> Page:
    """The report as HTML, with its images.

    Args:
        facts: what it states.
        texts: of the user.
        shards: the images (`schemas.IMAGES`).
        side: of the images, px.
        max_bytes: limit of the size of the page.

    Raises:
        InputError: the page is too large even without images.
    """
    wanted = list(dict.fromkeys(facts.images()))
    blank = {image_id: Thumbnail(number, "", side, side) for number, image_id in enumerate(wanted)}
    without = len(_render(facts, texts, Thumbnails(blank, len(wanted), 0)).encode())
    room = max_bytes - without - RESERVE
    if room < 0:
        raise InputError(
            f"report.max_bytes: expected at least {without + RESERVE:,}, the size of the report without images, got "
            f"{max_bytes:,}. Raise it, or lower report.pairs"
        )
    thumbnails = make_thumbnails(shards, wanted, side=side, max_bytes=room)
    html = _render(facts, texts, thumbnails)
    assert len(html.encode()) <= max_bytes, "a page without images is larger by their markup"
    return Page(html, thumbnails)


def _render(facts: Facts, texts: Texts, thumbnails: Thumbnails) -> str:
    style = _minified(STYLE.read_text(encoding="utf-8") + (FOLDER / "static/report.css").read_text(encoding="utf-8"))
    script = (FOLDER / "static/report.js").read_text(encoding="utf-8")
    environment = report_environment()
    return environment.get_template("report.html").render(
        facts=facts,
        texts=texts,
        thumbnails=thumbnails,
        style=Markup(style),  # noqa: S704  # files of this package
        script=Markup(script),  # noqa: S704  # likewise
        icon=_icon(),
        policy=policy(style, script),
        splits=SPLIT_NAMES,
        metric_names=[name for name, _ in NAMES.values()],
        charts=[chart for chart in (reliability_chart(facts.reliability), risk_chart(facts.risk)) if chart is not None],
        forest=forest(facts.metrics),
        funnel=funnel(facts.sources),
        ranked_from=RANKED_FROM,
        opened=len(facts.taxonomy.categories) <= MOST_OPENED,
        open_pairs=OPEN_PAIRS,
    )


def report_environment() -> Environment:
    """The templates with their filters."""
    environment = templates(FOLDER / "templates")
    environment.finalize = _plain
    filters: dict[str, Callable[..., Any]] = {
        "percent": _percent,
        "points": points,
        "count": lambda value: f"{value:,}",
        "range": interval_text,
        "last": lambda label: label.rsplit(SEPARATOR, maxsplit=1)[-1],
        "short": shortened,
        "figure": figure_text,
        "reason": reason_text,
    }
    environment.filters |= filters
    return environment


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy of a page with this style and script."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return percent(value, sign=True).replace("-", MINUS)


def interval_text(interval: tuple[float, float], *, sign: bool = False) -> str:
    """An interval of shares, or with ``sign`` of differences."""
    if sign:
        return " to ".join(map(points, interval))
    low, high = (f"{end * 100:.1f}" for end in interval)
    return f"{low} to {high}\N{NO-BREAK SPACE}%"


def figure_text(figure: Figure) -> str:
    """A metric with its interval, or why it is unknown."""
    if figure.value is None:
        return f"{UNKNOWN}: {figure.why}"
    return percent(figure.value) + (f" ({interval_text(figure.interval)})" if figure.interval else "")


def reason_text(reason: str) -> str:
    """The name of a reason for which a page or image was discarded, in lower case."""
    if reason in NAMES_OF_DISCARDS:
        return NAMES_OF_DISCARDS[reason].lower()
    if reason.startswith("http_"):
        return reason.replace("http_", "HTTP ")
    return {"robots": "excluded by robots.txt", "robots_tag": "excluded by a robots directive"}.get(
        reason, reason.replace("_", " ")
    )


def shortened(text: str, most: int = LONGEST_TEXT) -> str:
    """``text`` with at most ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else percent(value)


def _plain(value: Any) -> Any:
    """What a template prints: text of strangers without control characters."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(each if each == NO_BREAK else " " if each.isspace() else printable(each) for each in value)


def _minified(style: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)).strip()


def _icon() -> str:
    content = (STYLE.parent / "atlas.svg").read_bytes()
    return f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
