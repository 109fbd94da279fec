"""The champion: the model that predictions are made with, and all models that ever had its place.

Three things speak of it. ``models/champions.json`` is the history: an event for each model that took the place, and
for each that got it back. Its last event says who is champion; the two others follow from it. ``models/champion.dvc``
tells DVC, so that pull and push know of it, and ``models/champion/`` holds the model. The history is written first,
each of them appears whole or not at all, and `settle` makes them agree: wherever a change is killed, it has been made
or not, and whatever is called next mends the rest. The models themselves lie in DVC's cache and remote, where a run's
own model is already: a change of champion copies nothing there, and every version can be got back.

Knows nothing of which model is better.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from atlas_model.core.errors import InputError
from atlas_model.core.files import locked, replacing_folder, write_json, write_text
from atlas_model.core.progress import say
from atlas_model.core.yaml_files import read_yaml
from flows.dvc import repo
from flows.paths import WORK
from flows.registry.model_folders import CHAMPION

HISTORY = Path("models/champions.json")
POINTER = CHAMPION.with_suffix(".dvc")


class Event(BaseModel):
    """A model took the champion's place, or got it back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Annotated[
        int, Field(gt=0)
    ]  # of the champion from then on; a model that gets the place back keeps its number
    model: str  # DVC's hash of the folder
    at: str  # ISO 8601, UTC
    reason: str  # one line
    figures: dict[str, float]  # on the validation images of then; none where there was nothing to compare with
    replaced: int | None  # the version that was champion before
    rollback: bool  # the place was given back by hand
    split: dict[str, Any]  # parameters that decide which products are for validation, when it was trained


class History(BaseModel):
    """What ``models/champions.json`` holds, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    champions: list[Event]


@contextmanager
def changing() -> Iterator[None]:
    """Keep others from changing the champion meanwhile.

    Raises:
        AtlasError: another one is at it.
    """
    with locked(WORK / "champion", "promotion or rollback"):
        yield


def now() -> str:
    """The time, as an `Event` has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_history() -> list[Event]:
    """All events, oldest first; none where there never was a champion.

    Raises:
        InputError: the file is damaged.
    """
    return read_yaml(HISTORY, History).champions if HISTORY.exists() else []


def crown(history: Sequence[Event], event: Event) -> None:
    """Add ``event`` to ``history``: its model is the champion from now on.

    Raises:
        InputError: neither DVC's cache nor its remote has the model; nothing has changed.
    """
    with replacing_folder(CHAMPION) as folder:
        repo.restore(event.model, folder)
        write_json(HISTORY, History(champions=[*history, event]).model_dump())
        write_text(POINTER, _pointer(event))


def roll_back(version: int | None) -> Event:
    """Give the place back to ``version``, by default to the one whose place the champion took.

    Raises:
        InputError: there is no such version, or it is the champion; its model is nowhere to be found.
        AtlasError: a promotion is going on.
    """
    with changing():
        history = read_history()
        if not history:
            raise InputError("expected a champion, got none yet: nothing to roll back. `atlas promote` makes the first")
        promotions = {event.version: event for event in history if not event.rollback}
        current = history[-1].version
        wanted = promotions[current].replaced if version is None else version
        if wanted is None:
            raise InputError(f"version {current} is the first champion: expected one before it to go back to, got none")
        if wanted not in promotions or wanted == current:
            others = ", ".join(str(number) for number in promotions if number != current) or "none"
            raise InputError(f"expected an earlier version ({others}), got {wanted}; the champion is version {current}")
        reason = f"rolled back from version {current}"
        update = {"at": now(), "reason": reason, "replaced": current, "rollback": True}
        event = promotions[wanted].model_copy(update=update)
        crown(history, event)
        return event


def rolled_back(history: Sequence[Event]) -> dict[str, int]:
    """Models whose place was given back by hand, and so must not take it again by themselves, with their versions."""
    found: dict[str, int] = {}
    models = {event.version: event.model for event in history}
    for event in history:
        if event.rollback and event.replaced is not None:
            found[models[event.replaced]] = event.replaced
        found.pop(event.model, None)
    return found


def settle(history: Sequence[Event]) -> None:
    """Make the champion's folder, and what DVC knows of it, agree with ``history``.

    Raises:
        InputError: the folder holds what DVC's cache has not, or the champion's model is nowhere to be found.
    """
    if not history:
        if CHAMPION.exists() or POINTER.exists():
            raise InputError(
                f"{CHAMPION}: expected none, as there is no {HISTORY} that knows of it. Get that file from git, or run "
                "`atlas promote --force`, which puts the last trained model in its place"
            )
        return
    champion = history[-1]
    if not POINTER.exists() or POINTER.read_text(encoding="utf-8") != _pointer(champion):
        write_text(POINTER, _pointer(champion))
    found = repo.content_hash(CHAMPION)
    if found == champion.model:
        return
    if found is not None and not repo.has(found):
        raise InputError(
            f"{CHAMPION}: expected version {champion.version} as {HISTORY} has it, got other content: it is damaged, "
            f"or was changed by hand. `dvc checkout --force {POINTER}` brings that version back; "
            "`atlas promote --force` puts the last trained model in its place"
        )
    # Nothing is lost: it is another version, or the champion of another commit than the one that is checked out now.
    say(f"{CHAMPION}: version {champion.version} is put in its place")
    with replacing_folder(CHAMPION) as folder:
        repo.restore(champion.model, folder)


def _pointer(champion: Event) -> str:
    """What `dvc add` would write, with what people want to know."""
    out = {
        "md5": champion.model,
        "hash": "md5",
        "path": CHAMPION.name,
        "type": "model",
        "desc": f"version {champion.version}: {champion.reason}",
    }
    return yaml.safe_dump({"outs": [out]}, sort_keys=False, allow_unicode=True, width=1000)
