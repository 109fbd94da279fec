"""``atlas gc``: prints what nothing needs, by kind, and deletes it with ``--yes``."""

import sys

from atlas_model.core.params import load_params
from atlas_model.core.progress import say
from flows.gc.collection import Collection, collected
from flows.text import printable

SHOWN = 8  # outputs of a group
UNITS = ("kB", "MB", "GB", "TB")


def collect(*, yes: bool, keep: int, cloud: bool) -> int:
    """Print what would be deleted, then delete it if ``yes``.

    Args:
        yes: whether to delete it.
        keep: number of crawls, and of promotions, whose data are kept.
        cloud: whether to include the default remote.
    """
    with collected(load_params(), keep=keep, cloud=cloud) as collection:
        total = _listed(collection)
        _say_what_is_kept(collection)
        if not total:
            say("nothing to delete")
        elif yes:
            collection.delete()
            say(f"deleted: {size(total)}")
        else:
            say(f"nothing was deleted. `atlas gc --yes`, with the same options, deletes {size(total)}")
    return 0


def size(count: int) -> str:
    """``count`` bytes with a unit: 12.3 MB."""
    power = min(len(str(count)) - 1, 3 * len(UNITS)) // 3
    return f"{count / 1000**power:.1f} {UNITS[power - 1]}" if power else f"{count} B"


def _listed(collection: Collection) -> int:
    """Print the groups; returns their bytes."""
    total = 0
    for group in collection.groups():
        total += group.size
        sys.stdout.write(f"{size(group.size):>10}  {group.files:>7,}  {group.kind}: {group.reason}\n")
        largest = list(group.outputs.items())
        for path, count in largest[:SHOWN]:
            sys.stdout.write(f"{'':>10}  {size(count):>10}  {printable(path)}\n")
        if len(largest) > SHOWN:
            rest = sum(count for _, count in largest[SHOWN:])
            sys.stdout.write(f"{'':>10}  {size(rest):>10}  {len(largest) - SHOWN} other outputs\n")
    sys.stdout.flush()
    return total


def _say_what_is_kept(collection: Collection) -> None:
    needed = collection.needed
    crawls = ", ".join(map(printable, sorted(needed.snapshots))) or "none"
    say(f"kept: the workspace, {needed.references} commits of git, {len(needed.models)} models; the crawls {crawls}")
    if needed.incomplete:
        names = ", ".join(map(printable, needed.incomplete[:SHOWN]))
        say(
            f"not in this cache: folders of {len(needed.incomplete)} references ({names}). Their files cannot be told "
            "from others, so those that are here are deleted as well. To keep them: dvc fetch --all-tags --all-branches"
        )
