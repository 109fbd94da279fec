"""Stores the champion, which is the model for predictions, and the history of all champions.

Three files hold its state. ``models/champions.json`` is the history: an event per promotion and per rollback; a fresh
clone has it without events. The champion is the model of the last event; the two other files are derived from it.
``models/champion.dvc`` makes DVC push and pull the model, and ``models/champion/`` contains it. The history is written
first, each file is replaced atomically, and `repair` restores the other two from the history: after a kill, a change
has either happened or not. The models of all versions stay in DVC's cache and remote, where the stage train has stored
them. The stage report reads the history, to compare a model with the last accepted one.

Which model is better is decided in `flows.registry.promote`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from atlas_model.core.errors import InputError
from atlas_model.core.files import locked, replacing_folder, write_json, write_text
from atlas_model.core.progress import say
from atlas_model.core.yaml_files import read_yaml
from flows.dvc import repo
from flows.dvc.after_kill import mend
from flows.paths import CHAMPION, CHAMPIONS, WORK

HISTORY = CHAMPIONS
POINTER = CHAMPION.with_suffix(".dvc")


class AcceptedMetrics(BaseModel):
    """Metrics of a model on the test split at the time of its acceptance, for the report of later models.

    The names are those of reports/evaluate/metrics.json.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    weights: str  # SHA-256 of the weights, hex
    images: str  # fingerprint of the test images and their categories (`flows.report.facts.predictions.fingerprint`)
    n: int  # test images
    micro_f1: float | None
    macro_f1: float | None
    hierarchical_f1: float | None
    ece: float | None
    intervals: dict[str, list[float]]
    products: dict[str, Any]  # micro_f1 and its interval, of products


class Event(BaseModel):
    """A promotion or a rollback."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Annotated[int, Field(gt=0)]  # of the champion; a rollback keeps the version of the restored model
    model: str  # DVC's hash of the folder
    at: str  # ISO 8601, UTC
    reason: str  # one line
    figures: dict[str, float]  # on the validation split at that time; empty if there was no comparison
    replaced: int | None  # the version that was champion before
    rollback: bool  # by hand, with `atlas rollback`
    split: dict[str, Any]  # parameters at that time that decide which products are in the validation split
    test: AcceptedMetrics | None = None  # None: that model was not evaluated on the test split, or by an older version


class History(BaseModel):
    """What ``models/champions.json`` holds, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    champions: list[Event]


@contextmanager
def exclusive_change() -> Iterator[None]:
    """Lock the champion against changes by other processes.

    Raises:
        AtlasError: another process is changing it.
    """
    with locked(WORK / "champion", "promotion or rollback"):
        mend()
        yield


def now() -> str:
    """The current time in the format of `Event.at`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_history() -> list[Event]:
    """All events, oldest first; empty if there has been no champion.

    Raises:
        InputError: the file is damaged.
    """
    return read_yaml(HISTORY, History).champions if HISTORY.exists() else []


def set_champion(history: Sequence[Event], event: Event) -> None:
    """Make the model of ``event`` the champion, and append it to ``history``.

    Raises:
        InputError: neither DVC's cache nor its remote has the model; nothing was changed.
    """
    with replacing_folder(CHAMPION) as folder:
        repo.restore(event.model, folder)
        write_json(HISTORY, History(champions=[*history, event]).model_dump())
        write_text(POINTER, _pointer(event))


def roll_back(version: int | None) -> Event:
    """Make ``version`` the champion again, by default the previous champion.

    Raises:
        InputError: there is no such version, it is the champion already, or its model is in neither cache nor remote.
        AtlasError: a promotion is running.
    """
    with exclusive_change():
        history = read_history()
        if not history:
            raise InputError("expected a champion, got none yet: nothing to roll back. `atlas promote` makes the first")
        promotions = {event.version: event for event in history if not event.rollback}
        current = history[-1].version
        wanted = promotions[current].replaced if version is None else version
        if wanted is None:
            raise InputError(
                f"version {current} is the first champion: expected an earlier one to roll back to, got none"
            )
        if wanted not in promotions or wanted == current:
            others = ", ".join(str(number) for number in promotions if number != current) or "none"
            raise InputError(f"expected an earlier version ({others}), got {wanted}; the champion is version {current}")
        reason = f"rolled back from version {current}"
        update = {"at": now(), "reason": reason, "replaced": current, "rollback": True}
        event = promotions[wanted].model_copy(update=update)
        set_champion(history, event)
        return event


def rolled_back_models(history: Sequence[Event]) -> dict[str, int]:
    """Models that were rolled back, which only ``--force`` may promote again, with their versions."""
    found: dict[str, int] = {}
    models = {event.version: event.model for event in history}
    for event in history:
        if event.rollback and event.replaced is not None:
            found[models[event.replaced]] = event.replaced
        found.pop(event.model, None)
    return found


def repair(history: Sequence[Event]) -> None:
    """Restore the champion's folder and its .dvc file from ``history``, if they differ from it.

    Raises:
        InputError: the content of the folder is not in DVC's cache, or the champion's model is in neither cache nor
            remote.
    """
    if not history:
        if CHAMPION.exists() or POINTER.exists():
            raise InputError(
                f"{CHAMPION}: expected no champion, because {HISTORY} lists none; got one. Restore that file "
                "from git, or run `atlas promote --force`, which makes the last trained model the champion"
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
            f"{CHAMPION}: expected version {champion.version} of {HISTORY}, got other content: it is damaged or was "
            f"changed by hand. `dvc checkout --force {POINTER}` restores that version; "
            "`atlas promote --force` makes the last trained model the champion"
        )
    # The replaced content is in the cache: another version, or the champion of another commit.
    say(f"{CHAMPION}: restoring version {champion.version}")
    with replacing_folder(CHAMPION) as folder:
        repo.restore(champion.model, folder)


def _pointer(champion: Event) -> str:
    """The content that `dvc add` would write, with a description."""
    out = {
        "md5": champion.model,
        "hash": "md5",
        "path": CHAMPION.name,
        "type": "model",
        "desc": f"version {champion.version}: {champion.reason}",
    }
    return yaml.safe_dump({"outs": [out]}, sort_keys=False, allow_unicode=True, width=1000)
