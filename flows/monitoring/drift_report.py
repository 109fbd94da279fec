"""Formats the drift between two crawls as a page in Markdown.

Names of categories and currencies are untrusted text: they are escaped.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from atlas_model.drift.distances import Figure
from atlas_model.drift.profile import CrawlProfile, Distribution
from flows.text import in_markdown

MAX_CATEGORIES = 15  # listed: those whose share changed most
BAR = 20  # length of the bar of a distance of 1, characters
BLOCKS = "▁▂▃▄▅▆▇█"
BINS = 24  # of a histogram from the 1st to the 99th percentile
QUANTILES = (0.1, 0.5, 0.9)

Crawl = tuple[str, CrawlProfile]  # with its snapshot


def as_markdown(old: Crawl, new: Crawl, figures: Sequence[Figure]) -> str:
    """The page, in Markdown."""
    (old_name, before), (new_name, after) = old, new
    drifted = [in_markdown(figure.name) for figure in figures if figure.drifted]
    verdict = f"**Above their thresholds: {', '.join(drifted)}.**" if drifted else "No distance is above its threshold."
    blocks = [
        [f"# Drift from crawl {in_markdown(old_name)} to {in_markdown(new_name)}"],
        [f"{verdict} {before.products:,} products then, {after.products:,} now."],
        _figures(figures),
        [
            "Distances range from 0 (equal) to 1. Categories and currencies: the total variation, which is the share "
            "of products that moved. Numbers: the Kolmogorov-Smirnov distance, which is the largest difference "
            "between the cumulative distributions. Embeddings: the energy distance between the features of a sample "
            "of the images. Chance: the distance that two samples of this size from one shop exceed with a probability "
            "of 1 %; a smaller distance is no evidence of drift.",
        ],
        ["## Numbers"],
        _distributions(before, after),
        ["## Categories"],
        list(_categories(before, after)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _figures(figures: Sequence[Figure]) -> list[str]:
    rows = [["what", "distance", "", "threshold", "chance", "then", "now", ""]]
    for figure in figures:
        distance, bar, chance = "-", "", "-"
        if figure.distance is not None and figure.chance is not None:
            distance, chance = f"{figure.distance:.3f}", f"{figure.chance:.3f}"
            bar = "█" * round(BAR * figure.distance) or "▏"
        n = [f"{count:,}" for count in figure.n]
        rows.append([in_markdown(figure.name), distance, bar, f"{figure.threshold:g}", chance, *n, _verdict(figure)])
    return _table(rows, ":--", "--:", ":--", "--:", "--:", "--:", "--:", ":--")


def _verdict(figure: Figure) -> str:
    if figure.distance is None or figure.chance is None:
        return figure.note
    if figure.drifted:
        return "**drifted**"
    return "could be chance" if figure.distance > figure.threshold else ""


def _distributions(old: CrawlProfile, new: CrawlProfile) -> list[str]:
    pairs = [(f"price in {name}", old.prices[name], new.prices[name]) for name in old.prices if name in new.prices]
    pairs.append(("title length, characters", old.title_lengths, new.title_lengths))
    if old.image_sizes is not None and new.image_sizes is not None:
        pairs.append(("image size, pixels", old.image_sizes, new.image_sizes))
    rows = [["what", "", "lowest tenth", "median", "highest tenth", "shape", "values"]]
    for name, then, now in pairs:
        if not (then.n and now.n):
            continue
        shapes = _sparklines(then, now)
        for label, when, numbers, shape in ((in_markdown(name), "then", then, shapes[0]), ("", "now", now, shapes[1])):
            quantiles = [f"{value:,.10g}" for value in np.quantile(numbers.values, QUANTILES, method="inverted_cdf")]
            rows.append([label, when, *quantiles, shape, f"{numbers.n:,}"])
    return _table(rows, ":--", ":--", "--:", "--:", "--:", ":--", "--:")


def _sparklines(*both: Distribution) -> list[str]:
    """A histogram of each in one line of characters, over the same range."""
    low, high = np.quantile(np.concatenate([numbers.values for numbers in both]), (0.01, 0.99))
    images = []
    for numbers in both:
        counts, _ = np.histogram(numbers.values.clip(low, high), bins=BINS, range=(low, high))
        heights = np.ceil(counts / counts.max() * (len(BLOCKS) - 1)).astype(int)
        images.append("".join(BLOCKS[height] for height in heights))
    return images


def _categories(old: CrawlProfile, new: CrawlProfile) -> Iterator[str]:
    names = sorted({*old.categories, *new.categories})
    shares = {name: [_share(profile, name) for profile in (old, new)] for name in names}
    added = [name for name in names if name not in old.categories]
    removed = [name for name in names if name not in new.categories]
    changed = [name for name in names if shares[name][0] != shares[name][1]]
    yield f"{len(names)} categories: {len(added)} new, {len(removed)} gone, {len(changed)} with another share."
    if not changed:
        return
    listed = sorted(changed, key=lambda name: (-abs(shares[name][1] - shares[name][0]), name))[:MAX_CATEGORIES]
    rows = [["category", "then", "now", "share then", "share now", "change", ""]]
    for name in listed:
        then, now = shares[name]
        counts = [f"{profile.categories.get(name, 0):,}" for profile in (old, new)]
        word = "new" if name in added else "gone" if name in removed else ""
        shown = in_markdown(name) or "(none)"
        rows.append([shown, *counts, f"{then:.2%}", f"{now:.2%}", f"{100 * (now - then):+.2f} points", word])
    yield ""
    yield from _table(rows, ":--", "--:", "--:", "--:", "--:", "--:", ":--")
    if len(changed) > len(listed):
        yield ""
        yield f"And {len(changed) - len(listed)} more, which changed less: see the JSON file beside this one."


def _share(profile: CrawlProfile, category: str) -> float:
    return profile.categories.get(category, 0) / max(profile.products, 1)


def _table(rows: Sequence[Sequence[str]], *alignment: str) -> list[str]:
    head, *body = rows
    return [f"| {' | '.join(cells)} |" for cells in (head, alignment, *body)]
