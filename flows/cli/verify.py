"""``atlas verify``: compares every tracked file with its hash, and prints what brings damaged ones back."""

import json
import sys
from dataclasses import asdict

from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import say
from flows.dvc.verify import verify
from flows.text import printable

KINDS = {"unreadable": "cannot be read: the disk reports an error", "denied": "cannot be read: no permission"}


def verify_files(*, as_json: bool) -> int:
    """Print each damaged or missing file with its remedy; exit code 1 if there is one.

    Args:
        as_json: one JSON object instead of text.
    """
    found = verify()
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), indent=2, default=str) + "\n")
    else:
        for fault in found.faults:
            kind = KINDS.get(fault.kind, fault.kind)
            sys.stdout.write(f"{printable(str(fault.path))}: {kind}, expected {fault.expected}\n")
            sys.stdout.write(f"    {printable(fault.remedy)}\n")
        if found.absent:
            listed = ", ".join(printable(str(path)) for path in found.absent)
            say(f"not here: {len(found.absent)} outputs ({listed}). `dvc pull` or `dvc repro` creates them")
        if found.unchecked:
            say(f"without checksums: {len(found.unchecked)} files of an earlier version, such as {found.unchecked[0]}")
        if found.busy:
            listed = ", ".join(printable(str(path)) for path in found.busy)
            say(f"in use, not verified: {listed}. Run again when the process that uses them has ended")
        if found.unrecorded:
            listed = ", ".join(printable(str(path)) for path in found.unrecorded)
            say(f"not recorded yet, not verified: {listed}. DVC was killed when their stage had ended: run dvc repro")
        say(f"verified: {found.files:,} files, {len(found.faults):,} damaged or missing")
    return AtlasError.exit_code if found.faults else 0
