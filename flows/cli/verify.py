"""``atlas verify``: compares every tracked file with its hash, and prints what brings damaged ones back."""

import json
import sys
from dataclasses import asdict

from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import say
from flows.dvc.verify import verify
from flows.text import printable


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
            sys.stdout.write(f"{printable(str(fault.path))}: {fault.kind}, expected {fault.expected}\n")
            sys.stdout.write(f"    {printable(fault.remedy)}\n")
        if found.absent:
            listed = ", ".join(printable(str(path)) for path in found.absent)
            say(f"not here: {len(found.absent)} outputs ({listed}). `dvc pull` or `dvc repro` creates them")
        if found.unchecked:
            say(f"without checksums: {len(found.unchecked)} files of an earlier version, such as {found.unchecked[0]}")
        if found.busy:
            listed = ", ".join(printable(str(path)) for path in found.busy)
            say(f"not read, because a process uses them: {listed}. Run again when it has ended")
        say(f"verified: {found.files:,} files, {len(found.faults):,} damaged or missing")
    return AtlasError.exit_code if found.faults else 0
