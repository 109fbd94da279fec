"""The decisions while the page is used: stored at once, counted, and left out of the queues.

Thread-safe. Another process may append to the same files; its decisions are seen after a restart.
"""

import threading
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

from atlas_model.core.errors import InputError
from atlas_model.core.progress import say
from atlas_model.data.decisions import Kind, Verdict, answer_of, standing_decisions, suggestions, verdicts
from atlas_model.data.reviews import (
    CategoryDecision,
    Decision,
    Undo,
    ZoomDecision,
    append_record,
    read_reviews,
)
from atlas_model.metrics.proportions import score_interval
from flows.review.queues import Queue

KINDS: dict[Queue, Kind] = {"categories": "category", "zoom": "zoom"}  # of the decisions in a queue


class Session:
    """All records in the folder of reviews.

    Raises:
        InputError: the records are invalid.
    """

    def __init__(self, folder: Path) -> None:
        reviews = read_reviews(folder)
        for warning in reviews.warnings():
            say(warning)
        self._folder = folder
        self._lock = threading.Lock()
        self._records = list(reviews.records)
        self._by_id = {record.id: record for record in self._records}
        self._decided: dict[tuple[Queue, str, str], Decision] = {}  # queue, subject, reviewer -> standing decision
        self._reviewers: dict[tuple[Queue, str], set[str]] = {}  # queue, subject -> who decided
        for decision in standing_decisions(self._records):
            self._remember(decision)

    def add(self, record: Decision | Undo) -> bool:
        """Store ``record``; return False if it was stored before, as when a request is sent again.

        Raises:
            InputError: another record has its id, or it undoes no decision of this reviewer.
            AtlasError: it could not be stored.
        """
        with self._lock:
            before = self._by_id.get(record.id)
            if before is not None:
                if before.model_copy(update={"at": record.at}) != record:
                    raise InputError(f"expected a new id, got {record.id}, which another record has")
                return False
            if isinstance(record, Undo):
                undone = self._by_id.get(record.undoes)
                if undone is None or isinstance(undone, Undo) or undone.reviewer != record.reviewer:
                    raise InputError(f"expected the id of a decision of {record.reviewer}, got {record.undoes}")
            append_record(self._folder, record)
            self._records.append(record)
            self._by_id[record.id] = record
            if isinstance(record, Undo):
                self._undo(record)
            else:
                self._remember(record)
            return True

    def record(self, record_id: str) -> Decision:
        """The decision with this id, which must exist."""
        found = self._by_id[record_id]
        assert not isinstance(found, Undo)
        return found

    def last(self, reviewer: str, queue: Queue) -> Decision | None:
        """The last standing decision of a reviewer in a queue, which an undo withdraws."""
        with self._lock:
            for record in reversed(self._records):
                if isinstance(record, Undo) or record.reviewer != reviewer:
                    continue
                if self._decided.get((queue, record.subject, reviewer)) is record:
                    return record
            return None

    def is_decided(self, queue: Queue, subject: str, reviewer: str, *, by_others: bool) -> bool:
        """Whether ``reviewer`` has decided on ``subject``, or, if ``by_others``, anybody."""
        reviewers = self._reviewers.get((queue, subject), ())
        return bool(reviewers) if by_others else reviewer in reviewers

    def decided(self, queue: Queue, subjects: Container[str], reviewer: str, *, by_others: bool) -> int:
        """Number of ``subjects`` of which `is_decided` is true."""
        with self._lock:
            return sum(
                bool(reviewers) and (by_others or reviewer in reviewers) and subject in subjects
                for (of_queue, subject), reviewers in self._reviewers.items()
                if of_queue == queue
            )

    def count(self, reviewer: str) -> int:
        """Number of standing decisions of a reviewer."""
        with self._lock:
            return sum(name == reviewer for _, _, name in self._decided)

    def votes(self, queue: Queue, subject: str) -> list[Decision]:
        """The standing decisions about a subject, by reviewer."""
        with self._lock:
            names = sorted(self._reviewers.get((queue, subject), ()))
            return [self._decided[queue, subject, name] for name in names]

    def disagreements(self, queue: Queue) -> list[Verdict]:
        """The subjects on which reviewers answered differently, those without a majority first."""
        with self._lock:
            decisions = list(self._decided.values())
        found = [each for each in verdicts(decisions, KINDS[queue]).values() if each.disagree]
        return sorted(found, key=lambda verdict: verdict.answer is not None)

    def suggestions(self) -> list[CategoryDecision]:
        """Feedback to `atlas serve`, the newest first."""
        with self._lock:
            return suggestions(self._records)[::-1]

    def sample(self, queue: Queue, reviewer: str) -> dict[str, Any]:
        """What the random sample says: how often the label and the prediction are right, with 95 % intervals."""
        with self._lock:
            mine = [each for (of, _, name), each in self._decided.items() if of == queue and name == reviewer]
        drawn = [each for each in mine if each.shown is not None and each.shown.order == "random"]
        answered = [each for each in drawn if each.answer != "unsure"]
        right: Counter[str] = Counter()
        known: Counter[str] = Counter()
        for decision in answered:
            answer = answer_of(decision)
            wanted = (answer,) if isinstance(answer, str) else answer
            assert decision.shown is not None
            for what, given in (("label", decision.shown.label), ("prediction", decision.shown.predicted)):
                if given is not None:
                    known[what] += 1
                    right[what] += given == wanted
        return {
            "decisions": len(drawn),
            "unsure": len(drawn) - len(answered),
            **{what: share(right[what], known[what]) for what in known},
        }

    def _remember(self, decision: Decision) -> None:
        queue = queue_of(decision)
        self._decided[queue, decision.subject, decision.reviewer] = decision
        self._reviewers.setdefault((queue, decision.subject), set()).add(decision.reviewer)

    def _undo(self, record: Undo) -> None:
        undone = self._by_id[record.undoes]
        assert not isinstance(undone, Undo)
        queue = queue_of(undone)
        same = (
            each
            for each in self._records
            if isinstance(each, Undo)
            or (each.subject, each.reviewer, each.kind) == (undone.subject, undone.reviewer, undone.kind)
        )
        standing = standing_decisions(same)
        if standing:
            self._remember(standing[0])
            return
        self._decided.pop((queue, undone.subject, undone.reviewer), None)
        self._reviewers.get((queue, undone.subject), set()).discard(undone.reviewer)


def queue_of(decision: CategoryDecision | ZoomDecision) -> Queue:
    """The queue in which a decision is made."""
    return "categories" if isinstance(decision, CategoryDecision) else "zoom"


def share(right: int, known: int) -> dict[str, float | int]:
    """``right`` of ``known`` as a share, with its 95 % interval."""
    low, high = score_interval(right, known)
    return {"n": known, "right": right, "share": right / known, "low": low, "high": high}
