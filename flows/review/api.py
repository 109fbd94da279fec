"""The JSON that the page of `atlas review` reads and writes.

Handlers are plain functions, which FastAPI runs in threads.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atlas_model.core.errors import InputError
from atlas_model.data.reviews import (
    CategoryDecision,
    Decision,
    ImageId,
    RecordId,
    Shown,
    Text,
    Undo,
    ZoomDecision,
    now,
    reviewer_name,
    store_image,
)
from atlas_model.taxonomy.tree import SEPARATOR
from flows.review.catalogue import Catalogue
from flows.review.images import ImageStore
from flows.review.items import Item, category_item, suggest, vote, zoom_item
from flows.review.model import Advisor
from flows.review.queues import ORDERS, Order, Queue, ordered
from flows.review.search import Finder
from flows.review.session import Session

MAX_ITEMS = 12  # in one answer

Reviewer = Annotated[str, Query(max_length=100)]


@dataclass(frozen=True)
class Reviewing:
    """What the application works on."""

    catalogue: Catalogue
    images: ImageStore
    advisor: Advisor
    session: Session
    reviews: Path  # folder of the records
    seed: int  # of random samples


class NewDecision(BaseModel):
    """A decision, as the page sends it."""

    model_config = ConfigDict(extra="forbid")

    id: RecordId
    reviewer: str
    queue: Queue
    product_id: Text
    image_id: ImageId
    answer: Literal["category", "none", "unsure", "normal", "zoomed"]
    category: Annotated[list[Text], Field(max_length=64)] | None = None
    shown: dict[str, Any] | None = None  # a `Shown`


class NewUndo(BaseModel):
    """The withdrawal of a decision; without ``undoes`` of the reviewer's last one in the queue."""

    model_config = ConfigDict(extra="forbid")

    id: RecordId
    reviewer: str
    queue: Queue
    undoes: RecordId | None = None


def add_api(app: FastAPI, on: Reviewing) -> None:
    """Add the handlers to ``app``."""
    api = _Api(on)
    app.get("/api/items")(api.items)
    app.get("/api/item")(api.one)
    app.get("/api/find")(api.find)
    app.get("/api/sample")(api.sample)
    app.post("/api/decisions")(api.decide)
    app.post("/api/undo")(api.undo)


class _Api:
    """The handlers, and the orders that were computed."""

    def __init__(self, on: Reviewing) -> None:
        self._on = on
        self._finder = Finder(on.catalogue.taxonomy)
        self._ordered = lru_cache(2 * len(ORDERS))(self._order)

    def items(
        self,
        *,
        queue: Queue,
        order: Order,
        reviewer: Reviewer,
        position: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=0, le=MAX_ITEMS)] = 6,
        others: bool = False,
    ) -> dict[str, Any]:
        """The next undecided items from ``position`` on; ``others``: also those that other reviewers have decided.

        In the random order each reviewer gets the whole sample, so that their answers can be compared.
        """
        name, session = reviewer_name(reviewer), self._on.session
        by_others = not others and order != "random"
        subjects, unique = self._subjects(queue, order)
        if order == "disagreements":
            left = len(subjects)
        else:
            left = len(subjects) - session.decided(queue, unique, name, by_others=by_others)
        found: list[Item] = []
        while position < len(subjects) and len(found) < count:
            subject = subjects[position]
            position += 1
            if order == "disagreements":
                found.append(self._item(queue, subject) | {"votes": list(map(vote, session.votes(queue, subject)))})
            elif not session.is_decided(queue, subject, name, by_others=by_others):
                found.append(self._item(queue, subject))
        if order == "feedback":
            suggested = self._suggested()
            found = [suggest(self._on.catalogue, each, suggested[each["subject"]]) for each in found]
        return {"items": found, "next": position, "total": len(subjects), "left": left, "mine": session.count(name)}

    def one(self, queue: Queue, subject: Annotated[str, Query(max_length=2048)]) -> Item:
        """One item, decided or not."""
        if not self._is_here(queue, subject):
            raise HTTPException(404, "it is not in this snapshot")
        return self._item(queue, subject)

    def find(self, q: Annotated[str, Query(max_length=200)] = "") -> list[dict[str, Any]]:
        """Paths of the taxonomy that a text names."""
        paths = self._on.catalogue.taxonomy.paths
        return [{"index": index, "path": paths[index]} for index in self._finder.find(q)]

    def decide(self, given: NewDecision) -> dict[str, Any]:
        """Store a decision; the answer is sent after that."""
        on = self._on
        record = _record(given, on.catalogue, on.images)
        if isinstance(record, ZoomDecision) and record.answer != "unsure":
            store_image(on.reviews, record.image_id, on.images.read(record.image_id))
        on.session.add(record)
        return {"stored": record.id, "mine": on.session.count(record.reviewer)}

    def undo(self, given: NewUndo) -> dict[str, Any]:
        """Withdraw a decision; the answer has its item."""
        name, session = reviewer_name(given.reviewer), self._on.session
        last = session.last(name, given.queue)
        undoes = given.undoes or (last.id if last else None)
        if undoes is None:
            raise InputError(f"there is no decision of {name} to undo")
        session.add(Undo(id=given.id, at=now(), reviewer=name, undoes=undoes))
        subject = session.record(undoes).subject
        item = self._item(given.queue, subject) if self._is_here(given.queue, subject) else None
        return {"undone": undoes, "item": item, "mine": session.count(name)}

    def sample(self, queue: Queue, reviewer: Reviewer) -> dict[str, Any]:
        """The accuracies in the reviewer's random sample."""
        return self._on.session.sample(queue, reviewer_name(reviewer))

    def _subjects(self, queue: Queue, order: Order) -> tuple[list[str], Collection[str]]:
        """What `items` goes through, and the same as a set."""
        if order == "disagreements":
            found = [each.subject for each in self._on.session.disagreements(queue)]
            here = [subject for subject in found if self._is_here(queue, subject)]
            return here, here
        if order == "feedback":
            suggested = self._suggested() if queue == "categories" else {}
            return list(suggested), suggested
        return self._ordered(queue, order)

    def _suggested(self) -> dict[str, CategoryDecision]:
        """The newest feedback on each product of the catalogue."""
        found: dict[str, CategoryDecision] = {}
        for each in self._on.session.suggestions():
            product_id = self._on.catalogue.product_with(each.product_id, each.image_id)
            if product_id is not None:
                found.setdefault(product_id, each)
        return found

    def _order(self, queue: Queue, order: Order) -> tuple[list[str], frozenset[str]]:
        subjects = ordered(self._on.catalogue, queue, order, self._on.seed)
        return subjects, frozenset(subjects)

    def _item(self, queue: Queue, subject: str) -> Item:
        if queue == "zoom":
            return zoom_item(self._on.catalogue, subject)
        return category_item(self._on.catalogue, self._on.advisor, subject)

    def _is_here(self, queue: Queue, subject: str) -> bool:
        return self._on.catalogue.has(queue, subject)


def _record(given: NewDecision, catalogue: Catalogue, images: ImageStore) -> Decision:
    """The record of a decision, if it fits the queue and the data.

    Raises:
        InputError: it does not.
    """
    name = reviewer_name(given.reviewer)
    if given.image_id not in catalogue.images_of.get(given.product_id, ()) or given.image_id not in images:
        raise InputError(f"expected an image of the product {given.product_id}, got {given.image_id}")
    answer, at, shown = given.answer, now(), _shown(given.shown)
    if given.queue == "zoom":
        if answer not in ("normal", "zoomed", "unsure"):
            raise InputError(f"answer: expected normal, zoomed or unsure, got {answer}")
        return ZoomDecision(
            id=given.id,
            at=at,
            reviewer=name,
            product_id=given.product_id,
            image_id=given.image_id,
            answer=answer,
            shown=shown,
        )
    if answer not in ("category", "none", "unsure"):
        raise InputError(f"answer: expected category, none or unsure, got {answer}")
    category = tuple(given.category or ())
    if answer == "category" and category not in catalogue.taxonomy:
        raise InputError(f"category: expected a path of the taxonomy, got {SEPARATOR.join(category)!r}")
    return CategoryDecision(
        id=given.id,
        at=at,
        reviewer=name,
        product_id=given.product_id,
        image_id=given.image_id,
        answer=answer,
        category=category if answer == "category" else None,
        shown=shown,
    )


def _shown(given: dict[str, Any] | None) -> Shown | None:
    try:  # as JSON, in which a list is a tuple
        return None if given is None else Shown.model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise InputError(f"shown: {error.errors()[0]['msg']} ({error.errors()[0]['loc']})") from error
