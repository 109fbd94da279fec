"""Which folder a model's name on the command line stands for. Knows nothing of what is in it."""

import re
import shutil
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from atlas_model.core.progress import say
from flows.paths import CATEGORIZER, WORK

SHIPPED = "pretrained"  # what the shipped model is called on the command line; ./pretrained is a folder
CHAMPION = Path("models/champion")
POINTER = CHAMPION.with_suffix(".dvc")  # tells DVC, and whoever has it from git, which model is the champion
LAST_MODELS = WORK / "last-model"  # <hash>/: a copy of what models/categorizer was before a training began
BUSY_S = 10.0  # DVC holds its lock for a moment around a stage


def model_folder(name: str | None) -> Path:
    """The folder of the model that the command line calls ``name``.

    Without a name it is the champion, else the categorizer that was trained last, else the bundled model. DVC removes
    models/categorizer before a training, and it stays away until that training has saved one. Meanwhile the model that
    was complete before answers, from DVC's cache. A line on stderr says so wherever the answer comes from another model
    than the first of these.
    """
    if name is not None:
        return shipped_model() if name == SHIPPED else Path(name)
    if CHAMPION.is_dir():
        return CHAMPION
    if POINTER.is_file():
        say(f"warning: {CHAMPION} is not there, though {POINTER} names a champion. To get it: dvc pull {POINTER}")
    if _is_complete(CATEGORIZER):
        return CATEGORIZER
    last = _last_complete()
    if last is not None:
        say(
            f"warning: {CATEGORIZER} is not there: a training is under way, or was stopped. The last complete model "
            f"answers, the one that dvc.lock names: {last.name[:8]}"
        )
        return last
    if (WORK / "train").exists() or CATEGORIZER.exists():
        say(
            f"warning: {CATEGORIZER} is not there: a training is under way, or was stopped. DVC's cache has none of "
            "before, so the bundled model answers"
        )
    return shipped_model()


def shipped_model() -> Path:
    """The model that comes with the code: beside it, or where a wheel's data go."""
    beside = Path(__file__).resolve().parents[2] / "models/pretrained"
    return beside if beside.is_dir() else Path(sysconfig.get_path("data")) / "share/atlas/pretrained"


def _is_complete(folder: Path) -> bool:
    """Whether ``folder`` is a model, and not one that DVC is removing."""
    from atlas_model.core.checkpoint import DESCRIPTION, WEIGHTS

    return (folder / DESCRIPTION).is_file() and (folder / WEIGHTS).is_file()


def _last_complete() -> Path | None:
    """A copy of the categorizer that dvc.lock names; None where it names none, or DVC's cache has it no more.

    DVC writes dvc.lock when a stage has ended, so during a training it still names the model of before.
    """
    content = locked_model()
    if content is None or not Path(".dvc/tmp").is_dir():  # a fresh clone: DVC, which takes a second, never ran in it
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
    """DVC's hash of the categorizer that ``stage`` wrote, or read, when it last ran; None where dvc.lock has none."""
    lock = Path("dvc.lock")
    if not lock.is_file():
        return None
    found = re.search(rf"^  {stage}:\n(?:   .*\n)+", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:  # one stage of the file, because reading YAML takes long
        return None
    import yaml

    files = yaml.safe_load(found[0])[stage].get("outs" if stage == "train" else "deps", [])
    return next((str(file["md5"]) for file in files if file.get("path") == str(CATEGORIZER) and "md5" in file), None)
