"""When each stage last ended, which tells whether DVC was killed before it had recorded that in dvc.lock."""

from flows.paths import LOCK_FILE, WORK

ENDED = WORK / "ended"  # <stage>: an empty file, whose time is that of the end of its last run under DVC


def ended_unrecorded(stage: str) -> bool:
    """Whether the last run of ``stage`` ended, but DVC was killed before it had recorded that in dvc.lock.

    DVC then runs the stage again, although its result was complete.
    """
    try:
        return (ENDED / stage).stat().st_mtime_ns > LOCK_FILE.stat().st_mtime_ns
    except FileNotFoundError:  # no run has ended; or none was ever recorded
        return (ENDED / stage).exists()
