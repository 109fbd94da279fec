"""What is read of a robots.txt: not more of it than is sensible, and of other robots not more than that they exist.

Knows no client, and no rules: those are Protego's matter.
"""

import codecs
import re
from urllib.parse import quote

MAX_BYTES = 512_000  # what lies behind is not read; RFC 9309 (2.5) asks for 500 KiB at least

LINE_END = re.compile(r"\r\n?")  # besides LF (RFC 9309, 2.2)
NO_LINE_ENDS = {ord(one): quote(one) for one in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"}  # though Protego thinks so
KEEP_BYTES = "atlas-robots-txt"  # name of an error handler

# As Protego reads it, which also takes lines without a colon.
_AGENT = re.compile(r"^[ \t]*user[- ]?agent[ \t]*[: \t][ \t]*([^\s#/]*).*", re.IGNORECASE | re.MULTILINE)


def for_us(body: bytes, robot: str) -> str:
    """The start of ``body`` with all robots but ``robot`` under one name: the parser's work is robots times rules."""

    def rename(line: re.Match[str]) -> str:
        name = line[1].lower()
        return f"User-agent: {name if name in ('*', robot.lower()) else 'another robot'}"

    text = body[:MAX_BYTES].removeprefix(codecs.BOM_UTF8).decode("utf-8", KEEP_BYTES)
    return _AGENT.sub(rename, LINE_END.sub("\n", text).translate(NO_LINE_ENDS))


def _percent_encoded(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are no UTF-8 as a URL has them: a rule about them is still one."""
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error(KEEP_BYTES, _percent_encoded)
