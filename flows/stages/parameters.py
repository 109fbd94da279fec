"""The parameters as a stage gets them: params.yaml is checked before the stage begins, and read when it asks.

What checks and reads the file takes longer to import than a small stage takes in all. So a file that was found valid is
not checked again as long as neither it nor the code that checks it has changed.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.paths import WORK

if TYPE_CHECKING:
    from atlas_model.core.params import Params

PARAMS_FILE = Path("params.yaml")
CODE = Path(__file__).resolve().parents[2] / "atlas_model/core"
CHECKED = WORK / "checked-params"  # what the files were when the parameters were last found valid


def checked_params() -> "Params":
    """The parameters of the current folder.

    Raises:
        ParamsError: as `atlas_model.core.params.load_params`.
    """
    params = _Unread()
    state = _state()
    if state is None or not CHECKED.is_file() or CHECKED.read_text(encoding="utf-8") != state:
        params.read  # noqa: B018  # its faults are told now
        if state is not None:
            CHECKED.parent.mkdir(parents=True, exist_ok=True)
            CHECKED.write_text(state, encoding="utf-8")
    return cast("Params", params)


class _Unread:
    """Is the parameters from when one of them is asked for."""

    @cached_property
    def read(self) -> "Params":
        from atlas_model.core.params import load_params

        return load_params()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.read, name)


def _state() -> str | None:
    """What tells the parameters, and what checks them, from what they were; None where more than that says them."""
    try:
        if "\nbase:" in f"\n{PARAMS_FILE.read_text(encoding='utf-8')}":  # sections come from another file
            return None
        stats = [path.stat() for path in (PARAMS_FILE, CODE / "params.py", CODE / "yaml_files.py")]
    except (OSError, UnicodeDecodeError):
        return None
    return " ".join(f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}" for stat in stats)
