"""Names of splits, in Atlas and in other data sets."""

SPLITS = ("train", "val", "test")  # from the least protected to the most
SPLIT_NAMES = {  # of splits, as data sets call them
    "train": ("train", "training", "trn", "restval"),  # restval: COCO's validation images for training
    "val": ("val", "valid", "validation", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def parse_split(text: str) -> str | None:
    """Return the split that ``text`` names, case-insensitively; None for an unknown name."""
    return SPLIT_OF.get(text.strip().lower())
