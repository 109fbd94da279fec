"""Which decisions of `reviews` count: the last one of each reviewer that is not undone, and the majority of reviewers.

Feedback to `atlas serve` is no vote: it waits for a reviewer (`suggestions`).
A subject is a product (its category) or an image (close-up or not). "unsure" is no vote. The answer of more than half
of the votes counts. Without such a majority nothing counts, until a reviewer changes a decision or another one decides.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from atlas_model.data.reviews import SERVICE, CategoryDecision, Decision, Undo, ZoomDecision

Kind = Literal["category", "zoom"]
Answer = tuple[str, ...] | Literal["normal", "zoomed"]  # a category path, or the label of an image
NO_CATEGORY: tuple[str, ...] = ()  # no category of the taxonomy fits


@dataclass(frozen=True)
class Verdict:
    """What the reviewers say about a product or an image."""

    subject: str  # product_id or image_id
    votes: tuple[Decision, ...]  # the last decision of each reviewer, sorted by name; without "unsure"
    unsure: int  # reviewers who were not sure
    answer: Answer | None  # of the majority; None: there is none
    product_id: str = ""  # the image's, or the product itself

    @property
    def disagree(self) -> bool:
        """Whether two reviewers answered differently."""
        return len({answer_of(vote) for vote in self.votes}) > 1


def answer_of(decision: Decision) -> Answer:
    """The answer of a vote; `NO_CATEGORY` if no category fits."""
    assert decision.answer != "unsure", "this is no vote"
    if isinstance(decision, ZoomDecision):
        return decision.answer
    return decision.category or NO_CATEGORY


def standing_decisions(records: Iterable[Decision | Undo]) -> list[Decision]:
    """The last decision of each reviewer about each subject, without those that were undone, in order of time.

    An undone decision counts as if it had not been made: an earlier one about the same subject counts again.

    Args:
        records: by time.
    """
    return [each for each in _standing(records) if not is_feedback(each)]


def suggestions(records: Iterable[Decision | Undo]) -> list[CategoryDecision]:
    """Feedback to `atlas serve`, as `standing_decisions`; "unsure" if it names no category ("this is wrong")."""
    return [each for each in _standing(records) if isinstance(each, CategoryDecision) and is_feedback(each)]


def is_feedback(decision: Decision) -> bool:
    """Whether it is feedback to `atlas serve`."""
    return decision.shown is not None and decision.shown.order == SERVICE


def _standing(records: Iterable[Decision | Undo]) -> list[Decision]:
    listed = list(records)
    undone = {record.undoes for record in listed if isinstance(record, Undo)}
    last: dict[tuple[str, str, str, bool], Decision] = {}
    for record in listed:
        if not isinstance(record, Undo) and record.id not in undone:
            key = (record.kind, record.reviewer, record.subject, is_feedback(record))
            last.pop(key, None)
            last[key] = record
    return list(last.values())


def verdicts(records: Iterable[Decision | Undo], kind: Kind) -> dict[str, Verdict]:
    """The verdict on each subject that has a decision of ``kind``, sorted by subject."""
    wanted = CategoryDecision if kind == "category" else ZoomDecision
    of_subject: dict[str, list[Decision]] = {}
    for decision in standing_decisions(records):
        if isinstance(decision, wanted):
            of_subject.setdefault(decision.subject, []).append(decision)
    return {subject: _verdict(subject, of_subject[subject]) for subject in sorted(of_subject)}


def _verdict(subject: str, decisions: list[Decision]) -> Verdict:
    votes = sorted((each for each in decisions if each.answer != "unsure"), key=lambda vote: vote.reviewer)
    counts = Counter(map(answer_of, votes))
    answer, count = counts.most_common(1)[0] if counts else (None, 0)
    has_majority = 2 * count > len(votes)
    unsure = len(decisions) - len(votes)
    return Verdict(subject, tuple(votes), unsure, answer if has_majority else None, decisions[-1].product_id)
