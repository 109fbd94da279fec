"""What splits are called: here, and in other people's data sets. Knows nothing of how products are split."""

SPLITS = ("train", "val", "test")  # from the least guarded to the most
SPLIT_NAMES = {  # of splits, as data sets call them
    "train": ("train", "training", "trn", "restval"),  # restval: what COCO's validation leaves to train on
    "val": ("val", "valid", "validation", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def parse_split(text: str) -> str | None:
    """The split that ``text`` names, in whatever capitals; None if it names none that is usual."""
    return SPLIT_OF.get(text.strip().lower())
