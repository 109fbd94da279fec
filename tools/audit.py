"""Looks for known vulnerabilities of the locked packages, with pip-audit: ``python -m tools.audit``.

The advisories come from the service of the package index. An index of one's own may not have them: then pip-audit finds
no vulnerability, so this says how many packages were compared. Exit code 1: there are vulnerabilities. 0: there are
none, or the advisories cannot be had.
"""

import json
import subprocess
import sys
from typing import Any

from tools.lock import BUILD_LOCK, CUDA_LOCK, LOCKS

FILES = (*LOCKS, BUILD_LOCK, CUDA_LOCK)
TIMEOUT_S = 300


def report(text: str) -> tuple[list[str], int]:
    """The lines on the JSON of pip-audit, and the exit code."""
    packages: list[dict[str, Any]] = json.loads(text)["dependencies"]
    compared = [package for package in packages if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for package in compared
        for found in package["vulns"]
    ]
    if lines:
        return [*lines, "Raise the versions in pyproject.toml, then run `make lock`"], 1
    if not compared:
        return [f"warning: NOT AUDITED: the package index has no advisories on the {len(packages)} packages"], 0
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines = [f"no known vulnerability in {len(compared)} packages"]
    if skipped:
        lines.append(f"warning: no advisories on {len(skipped)} packages: {', '.join(skipped)}")
    return lines, 0


def main() -> int:
    """Audit the locks, and return the exit code."""
    files = [part for name in FILES for part in ("--requirement", name)]
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json", *files]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        lines, exit_code = report(done.stdout)
    except subprocess.TimeoutExpired:
        lines, exit_code = [f"warning: NOT AUDITED: the advisory service did not answer within {TIMEOUT_S} s"], 0
    except ValueError:  # no JSON
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        lines, exit_code = [f"warning: NOT AUDITED: pip-audit failed: {reason[:300]}"], 0
    sys.stderr.write("".join(f"audit: {line}\n" for line in lines))
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
