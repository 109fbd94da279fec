"""The model card and the data card of a run, in the format of the Hugging Face Hub.

Every number is one of reports/evaluate/metrics.json and the other files of the stages. What only the owner of the data
can know, such as licences and the intended use, comes from params.yaml, section report; otherwise the card says that it
is unknown. Names of categories and shops are untrusted: they are escaped for Markdown and HTML.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from atlas_model.core.errors import InputError
from atlas_model.data.schemas import open_parquet
from atlas_model.split.names import SPLITS as SPLIT_NAMES
from flows import paths
from flows.report.facts.collect import Facts
from flows.report.facts.discards import NAMES as NAMES_OF_DISCARDS
from flows.report.facts.figures import MODES, NAMES, Figure
from flows.report.front_matter import Tested, dataset_front_matter, model_front_matter, results
from flows.report.page import FOLDER, Texts, reason_text
from flows.text import in_markdown, share
from flows.web.pages import templates

LONGEST = 200  # characters of a name


def model_card(facts: Facts, texts: Texts) -> str:
    """The model card as Markdown."""
    given = facts.evaluated.get("modes") or {"image": facts.evaluated.get("test") or {}}
    split = f"{texts.title}: test split"
    tested = [
        Tested(f"product category path from {MODES[key]}", split, slug(texts.title), "test", results(metrics))
        for key, metrics in given.items()
        if key in MODES
    ]
    head = model_front_matter(
        name=texts.title,
        license=texts.license,
        tags=["hierarchical-classification", *(["multimodal"] if facts.model.reads_titles else [])],
        tested=tested,
    )
    return head + _render("model_card.md", facts, texts)


def data_card(facts: Facts, texts: Texts) -> str:
    """The data card as Markdown, for the folder that contains the Parquet files of data/splits."""
    files = sorted(paths.SPLITS.glob("*.parquet"))
    counts = {split: facts.sources.total.splits[split] for split in SPLIT_NAMES}
    head = dataset_front_matter(
        name=texts.title,
        license=texts.data_license,
        features=_features(files[0]),
        splits=counts,
        size=sum(path.stat().st_size for path in files),
    )
    return head + _render("data_card.md", facts, texts)


def slug(name: str) -> str:
    """``name`` as an identifier: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "atlas"


def figure_in_text(figure: Figure) -> str:
    """A metric with its interval, as in the README, or why it is unknown."""
    if figure.value is None:
        return f"unknown ({figure.why})"
    return share(figure.value) + (f" ({' to '.join(map(share, figure.interval))})" if figure.interval else "")


def _features(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The features in the metadata of a file of a split."""
    try:
        with open_parquet(path) as file:
            metadata = file.schema_arrow.metadata or {}
        features: dict[str, dict[str, Any]] = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (InputError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: expected a file of the stage split, got {error}. Run: dvc repro split") from error
    return features


def _render(name: str, facts: Facts, texts: Texts) -> str:
    environment = templates(FOLDER / "templates")
    environment.filters |= {
        "md": _in_markdown,
        "figure": lambda figure: Markup(figure_in_text(figure)),  # noqa: S704  # numbers and texts of this package
        "share": lambda value: "unknown" if value is None else share(value),
        "signed": lambda value: share(value, sign=True),
        "count": lambda value: f"{value:,}",
        "reason": lambda reason: Markup(in_markdown(reason_text(reason))),  # noqa: S704  # as below
    }
    text = environment.get_template(name).render(
        facts=facts,
        texts=texts,
        total=facts.sources.total,
        metric_names=[name for name, _ in NAMES.values()],
        names_of_discards=NAMES_OF_DISCARDS,
        params=facts.model.description.get("params") or {},
        preprocessing=facts.model.description.get("preprocessing") or {},
        splits=SPLIT_NAMES,
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _in_markdown(value: object) -> Markup:
    text = str(value)
    short = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return Markup(in_markdown(short))  # noqa: S704  # `in_markdown` escapes for HTML, too
