"""Tables that the stage evaluate wrote, read again to be shown. Knows nothing of where."""

from typing import TYPE_CHECKING

from flows.paths import EVALUATION

if TYPE_CHECKING:
    import pandas as pd  # imported where it is used: it takes tenths of a second

FIGURES = ["precision", "recall", "f1"]
PREDICTED = ["actual_category", "predicted_category", "split_value"]


def read_categories() -> "pd.DataFrame":
    """``split``, ``category``, `FIGURES` and images (``n``) of each category; empty where there is no file."""
    return _read("categories.csv", ["split", "category", *FIGURES, "n"])


def read_predictions() -> "pd.DataFrame":
    """`PREDICTED` of each image; empty where there is no file."""
    return _read("predictions.csv", PREDICTED)


def weakest_categories(categories: "pd.DataFrame", most: int) -> "pd.DataFrame":
    """The ``most`` categories of the test split with the lowest F; of equals those with more images."""
    tested = categories[(categories["split"] == "test") & categories["f1"].notna() & (categories["n"] > 0)]
    return tested.sort_values(["f1", "n"], ascending=[True, False]).head(most)


def _read(name: str, columns: list[str]) -> "pd.DataFrame":
    import pandas as pd

    path = EVALUATION / name
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    return pd.read_csv(
        path,
        usecols=columns,
        dtype={column: "str" for column in columns if column not in {*FIGURES, "n"}},
        keep_default_na=False,  # a category may be called NA
        na_values=dict.fromkeys(FIGURES, ""),
    )
