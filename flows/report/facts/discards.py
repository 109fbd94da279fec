"""Examples of the images that were discarded, by reason."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from atlas_model.split.reasons import NOT_FETCHED, REMEDIES, kind_of

NAMES = {  # reason -> name
    "zoomed": "Close-up",
    "unreadable": "Cannot be decoded",
    "not_in_taxonomy": "Category outside the taxonomy",
    "category_split": "Category was split",
    "category_removed": "Category was removed",
    "too_small": "Too small",
    "shared_image": "Shared by many products",
    "label_conflict": "Products of several categories",
    "duplicate": "Duplicate",
    "rare_category": "Rare category",
    "near_duplicate_of_test": "Near-duplicate of a test image",
    "near_duplicate_of_val": "Near-duplicate of a validation image",
    NOT_FETCHED: "Not downloaded",
}


@dataclass(frozen=True)
class Strip:
    """Images discarded for one reason."""

    reason: str
    name: str
    explanation: str  # with what to do about it
    count: int
    details: Mapping[str, int]  # not downloaded: status -> images
    doubtful: tuple[tuple[str, float | None], ...]  # image ids with p_zoomed; close-ups: nearest to the threshold
    clear: tuple[tuple[str, float | None], ...]  # close-ups: with the highest p_zoomed


def collect_discards(
    discarded: Iterable[tuple[str | None, str]], p_zoomed: Mapping[str, float | None], *, most: int
) -> list[Strip]:
    """A strip per reason, the reason with the most images first.

    Args:
        discarded: image id (None: not fetched) and reason.
        p_zoomed: by image id; those discarded as zoomed are sufficient.
        most: maximum number of images of a strip.
    """
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    images: defaultdict[str, set[str]] = defaultdict(set)
    for image_id, reason in discarded:
        kind = kind_of(reason)
        if kind == NOT_FETCHED:
            statuses[reason] += 1
            reason = kind
        counts[reason] += 1
        if image_id is not None and reason != NOT_FETCHED:
            images[reason].add(image_id)
    strips = []
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        listed = [(image_id, p_zoomed.get(image_id)) for image_id in sorted(images[reason])]
        doubtful, clear = listed[:most], listed[:0]
        if reason == "zoomed":
            listed.sort(key=lambda item: (item[1] if item[1] is not None else 1.0, item[0]))
            doubtful = listed[: most - most // 2]
            clear = listed[len(doubtful) :][::-1][: most // 2]
        explanation = REMEDIES[kind_of(reason)]
        strips.append(
            Strip(
                reason,
                NAMES.get(reason, reason),
                f"{explanation[0].upper()}{explanation[1:]}.".replace("..", "."),
                count,
                dict(sorted(statuses.items(), key=lambda item: (-item[1], item[0]))) if reason == NOT_FETCHED else {},
                tuple(doubtful),
                tuple(clear),
            )
        )
    return strips
