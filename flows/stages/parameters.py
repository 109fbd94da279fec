"""Loads the parameters of a stage: params.yaml is validated before the stage begins, and read on first access.

Importing the validator takes longer than a small stage. So a file that was found valid is not validated again, as long
as neither the file nor the code of the validator has changed.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from atlas_model.core.files import make_folder
from flows.paths import WORK

if TYPE_CHECKING:
    from atlas_model.core.params import Params

PARAMS_FILE = Path("params.yaml")
CODE = Path(__file__).resolve().parents[2] / "atlas_model/core"
CHECKED = WORK / "checked-params"  # fingerprint of params.yaml and its validator, when the file was last found valid


def checked_params() -> "Params":
    """The parameters of the current folder.

    Raises:
        ParamsError: as `atlas_model.core.params.load_params`.
    """
    params = _Unread()
    state = _state()
    if state is None or not CHECKED.is_file() or CHECKED.read_text(encoding="utf-8") != state:
        params.read  # noqa: B018  # raises if params.yaml has faults
        if state is not None:
            make_folder(CHECKED.parent)
            CHECKED.write_text(state, encoding="utf-8")
    return cast("Params", params)


class _Unread:
    """The parameters, loaded when the first attribute is read."""

    @cached_property
    def read(self) -> "Params":
        from atlas_model.core.params import load_params

        return load_params()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.read, name)


def _state() -> str | None:
    """Fingerprint of params.yaml and its validator; None if params.yaml has a ``base`` file, or cannot be read."""
    try:
        if "\nbase:" in f"\n{PARAMS_FILE.read_text(encoding='utf-8')}":  # sections come from another file
            return None
        stats = [path.stat() for path in (PARAMS_FILE, CODE / "params.py", CODE / "yaml_files.py")]
    except (OSError, UnicodeDecodeError):
        return None
    return " ".join(f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}" for stat in stats)
