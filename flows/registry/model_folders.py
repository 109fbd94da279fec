"""Finds the folder of the model to predict with: the one named on the command line, or the default."""

import re
import shutil
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from atlas_model.core.progress import say
from flows.paths import CATEGORIZER, CHAMPION, LOCK_FILE, WORK

BUNDLED = "pretrained"  # name of the bundled model on the command line; ./pretrained is a folder
POINTER = CHAMPION.with_suffix(".dvc")  # tracks the champion in DVC; in git
LAST_MODELS = WORK / "last-model"  # <hash>/: a copy of models/categorizer from before a training
BUSY_S = 10.0  # DVC holds its lock briefly before and after a stage


def model_folder(name: str | None) -> Path:
    """The folder of the model that the command line names ``name``.

    Without a name: the champion, else the last trained categorizer, else the bundled model. DVC removes
    models/categorizer before a training, so it is missing until that training has saved a model. Meanwhile the previous
    one is used, from DVC's cache. A warning reports each case in which an expected model is missing.
    """
    if name is not None:
        return bundled_model() if name == BUNDLED else Path(name)
    if CHAMPION.is_dir():
        return CHAMPION
    if POINTER.is_file():
        say(f"warning: {CHAMPION} is missing, although {POINTER} tracks a champion. To download it: dvc pull {POINTER}")
    if _is_complete(CATEGORIZER):
        return CATEGORIZER
    last = _last_complete()
    if last is not None:
        say(
            f"warning: {CATEGORIZER} is missing: a training is running or was stopped. The last complete model is "
            f"used, the one in dvc.lock: {last.name[:8]}"
        )
        return last
    if (WORK / "train").exists() or CATEGORIZER.exists():
        say(
            f"warning: {CATEGORIZER} is missing: a training is running or was stopped. DVC's cache has no previous "
            "model, so the bundled model is used"
        )
    return bundled_model()


def bundled_model() -> Path:
    """The folder of the bundled model: in the source tree, or in the data folder of an installed wheel."""
    beside = Path(__file__).resolve().parents[2] / "models/pretrained"
    return beside if beside.is_dir() else Path(sysconfig.get_path("data")) / "share/atlas/pretrained"


def _is_complete(folder: Path) -> bool:
    """Whether ``folder`` is a complete model; DVC may be removing it."""
    from atlas_model.core.checkpoint import DESCRIPTION, WEIGHTS

    return (folder / DESCRIPTION).is_file() and (folder / WEIGHTS).is_file()


def _last_complete() -> Path | None:
    """A copy of the categorizer in dvc.lock; None if it has none, or DVC's cache no longer has that model.

    DVC writes dvc.lock when a stage has ended, so during a training it still has the previous model.
    """
    content = locked_model()
    if (
        content is None or not Path(".dvc/tmp").is_dir()
    ):  # in a fresh clone DVC has never run; importing it takes a second
        return None
    folder = LAST_MODELS / content
    if _is_complete(folder):
        return folder

    from atlas_model.core.errors import InputError
    from atlas_model.core.files import replacing_folder
    from flows.dvc import repo

    deadline = time.monotonic() + BUSY_S
    with suppress(InputError):  # no DVC project
        while repo.has(content):
            try:
                with replacing_folder(folder) as copy:
                    repo.restore(content, copy)
            except repo.DvcBusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
                continue
            for other in set(LAST_MODELS.iterdir()) - {folder}:
                shutil.rmtree(other, ignore_errors=True)
            return folder
    return None


def locked_model(stage: Literal["train", "evaluate"] = "train") -> str | None:
    """DVC's hash of the categorizer that ``stage`` wrote or read in its last run; None if dvc.lock has none."""
    if not LOCK_FILE.is_file():
        return None
    found = re.search(rf"^  {stage}:\n(?:   .*\n)+", LOCK_FILE.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:  # only one stage is parsed as YAML, because parsing the whole file is slow
        return None
    import yaml

    files = yaml.safe_load(found[0])[stage].get("outs" if stage == "train" else "deps", [])
    return next((str(file["md5"]) for file in files if file.get("path") == str(CATEGORIZER) and "md5" in file), None)
