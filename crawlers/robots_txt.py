"""What is read of a robots.txt: not more of it than is sensible, and of other robots not more than that they exist.

Knows no client, and no rules: those are Protego's matter.
"""

import re

MAX_BYTES = 512_000  # what lies behind is not read; RFC 9309 (2.5) asks for 500 KiB at least

# As Protego reads it, which also takes lines without a colon.
_AGENT = re.compile(r"^[ \t]*user[- ]?agent[ \t]*[: \t][ \t]*([^\s#/]*).*", re.IGNORECASE | re.MULTILINE)


def for_us(body: bytes, robot: str) -> str:
    """The start of ``body`` with all robots but ``robot`` under one name: the parser's work is robots times rules."""

    def rename(line: re.Match[str]) -> str:
        name = line[1].lower()
        return f"User-agent: {name if name in ('*', robot.lower()) else 'another robot'}"

    return _AGENT.sub(rename, body[:MAX_BYTES].decode("utf-8-sig", "replace"))
