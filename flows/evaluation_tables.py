"""Reads the tables of the stage evaluate for reports."""

from typing import TYPE_CHECKING

from atlas_model.data.csv_cells import from_cell
from flows.paths import EVALUATION

if TYPE_CHECKING:
    import pandas as pd  # imported in functions, because it takes tenths of a second

FIGURES = ["precision", "recall", "f1"]
PREDICTED = ["actual_category", "predicted_category", "split_value"]


def read_categories() -> "pd.DataFrame":
    """A row per split and category: ``split``, ``category``, `FIGURES` and images (``n``); empty without the file."""
    return _read("categories.csv", ["split", "category", *FIGURES, "n"])


def read_predictions() -> "pd.DataFrame":
    """A row per image with the columns `PREDICTED`; empty without the file."""
    return _read("predictions.csv", PREDICTED)


def weakest_categories(categories: "pd.DataFrame", most: int) -> "pd.DataFrame":
    """The ``most`` categories of the test split with the lowest F; on ties, those with more images first."""
    tested = categories[(categories["split"] == "test") & categories["f1"].notna() & (categories["n"] > 0)]
    return tested.sort_values(["f1", "n"], ascending=[True, False]).head(most)


def _read(name: str, columns: list[str]) -> "pd.DataFrame":
    import pandas as pd

    path = EVALUATION / name
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    texts = [column for column in columns if column not in {*FIGURES, "n"}]
    rows = pd.read_csv(
        path,
        usecols=columns,
        dtype=dict.fromkeys(texts, "str"),
        keep_default_na=False,  # a category may be called NA
        na_values=dict.fromkeys(FIGURES, ""),
    )
    rows[texts] = rows[texts].map(from_cell)
    return rows
