"""Which folder a model's name on the command line stands for. Knows nothing of what is in it."""

import sysconfig
from pathlib import Path

from flows.stages.paths import CATEGORIZER

SHIPPED = "pretrained"  # what the shipped model is called on the command line; ./pretrained is a folder
CHAMPION = Path("models/champion")
OWN_MODELS = (CHAMPION, CATEGORIZER)  # the first of them that is there goes before the shipped one


def model_folder(name: str | None) -> Path:
    """The folder of the model that the command line calls ``name``."""
    if name is None:
        own = next((folder for folder in OWN_MODELS if folder.is_dir()), None)
        return own or shipped_model()
    return shipped_model() if name == SHIPPED else Path(name)


def shipped_model() -> Path:
    """The model that comes with the code: beside it, or where a wheel's data go."""
    beside = Path(__file__).resolve().parents[1] / "models/pretrained"
    return beside if beside.is_dir() else Path(sysconfig.get_path("data")) / "share/atlas/pretrained"
