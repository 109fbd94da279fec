"""Draws images of the results of a stage: loss curves, plots of the evaluation, images discarded by the zoom filter."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from flows.paths import EVALUATION, PLOTS, SCORES, SHARDS

if TYPE_CHECKING:
    from PIL import Image

Curves: TypeAlias = dict[str, dict[str, list[tuple[float, float]]]]  # panel -> line -> points
Named: TypeAlias = tuple[str, str, "Image.Image"]  # key, description, image

ATTENTION = 6  # images of attention that are shown
DROPPED = 24
TILE = 96  # px


def images_of(stage: str) -> Iterator[Named]:
    """The images of the results of ``stage``."""
    curves = read_curves(PLOTS / stage)
    if curves:
        yield f"{stage}-curves", f"Metrics of {stage} by epoch", draw_curves(curves)
    if stage == "evaluate":
        yield from _evaluation()
    if stage == "zoom":
        dropped = list(_dropped()) if SCORES.is_file() and SHARDS.is_dir() else []
        if dropped:
            yield "zoom-dropped", "Discarded images with the highest close-up scores", montage(dropped, 8, TILE)


def read_curves(folder: Path) -> Curves:
    """The series of dvclive in ``folder`` (``plots/metrics/<line>/<panel>.tsv``), and those of ``history.csv``."""
    found: Curves = {}
    for path in sorted(folder.glob("plots/metrics/*/*.tsv")):
        found.setdefault(path.stem, {})[path.parent.name] = next(_series(path, "\t"))[1]
    history = folder / "history.csv"
    if history.is_file():
        for name, points in _series(history, ","):
            line, _, panel = name.partition("_")
            found.setdefault(panel, {})[line] = points
    return found


def _series(path: Path, separator: str) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Each column after the first, as points over the first column."""
    import pandas as pd

    rows = pd.read_csv(path, sep=separator)
    first, *names = rows.columns
    for name in names:
        yield name, list(zip(rows[first].astype(float), rows[name].astype(float), strict=True))


def draw_curves(curves: Curves) -> "Image.Image":
    """The panels side by side, with a line per series."""
    from matplotlib.figure import Figure

    from atlas_model.viz.plots import render

    figure = Figure(figsize=(4.0 * len(curves), 3.2), dpi=100, layout="constrained")
    for axes, (panel, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker=".", linewidth=1.5, label=name.replace("_", " "))
        axes.set(title=panel.replace("_", " "), xlabel="epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return render(figure)


def _evaluation() -> Iterator[Named]:
    from PIL import Image

    for name, description in (
        ("confusion", "Confusion matrix of the test split"),
        ("reliability", "Reliability diagram"),
        ("abstention", "Accuracy and coverage by confidence threshold"),
    ):
        path = EVALUATION / f"{name}.png"
        if path.is_file():
            with Image.open(path) as image:
                yield f"evaluate-{name}", description, image.convert("RGB")
    drawn = []
    for path in islice(sorted((EVALUATION / "attention").glob("*.png")), ATTENTION):
        with Image.open(path) as image:
            drawn.append(image.convert("RGB"))
    if drawn:
        widest = max(image.width for image in drawn)
        yield "evaluate-attention", "Attention of the decoder at each level", montage(drawn, 1, widest)


def _dropped() -> Iterator["Image.Image"]:
    """Some of the images discarded as zoomed, the highest scores first."""
    from atlas_model.data.schemas import SCORES as SCHEMA
    from atlas_model.data.schemas import read_table
    from atlas_model.zoom.contact_sheet import most_confident_zoomed

    scores = read_table(SCORES, SCHEMA, "zoom", ["image_id", "p_zoomed", "reason"])
    for image, _ in most_confident_zoomed(scores, SHARDS, DROPPED, TILE):
        yield image


def montage(images: Iterable["Image.Image"], columns: int, tile_px: int) -> "Image.Image":
    """``images`` in rows of ``columns``, each scaled to fit a square tile."""
    from PIL import Image, ImageOps

    tiles = [ImageOps.contain(image.convert("RGB"), (tile_px, tile_px)) for image in images]
    height = max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (min(columns, len(tiles)) * tile_px, rows * height), "white")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (column * tile_px + (tile_px - tile.width) // 2, row * height + (height - tile.height) // 2))
    return sheet
