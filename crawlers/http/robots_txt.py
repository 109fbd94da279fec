"""Preparation of a robots.txt for Protego: bounded size, normalised line ends, merged rules of other robots."""

import codecs
import re
from urllib.parse import quote

MAX_BYTES = 512_000  # the rest is ignored; RFC 9309 (2.5) requires at least 500 KiB

LINE_END = re.compile(r"\r\n?")  # besides LF (RFC 9309, 2.2)
NO_LINE_ENDS = {ord(one): quote(one) for one in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"}  # Protego splits lines there
KEEP_BYTES = "atlas-robots-txt"  # name of an error handler

# The same syntax as in Protego, which also accepts lines without a colon.
_AGENT = re.compile(r"^[ \t]*user[- ]?agent[ \t]*[: \t][ \t]*([^\s#/]*).*", re.IGNORECASE | re.MULTILINE)


def rules_for(body: bytes, robot: str) -> str:
    """The start of ``body`` as text, with all other robots renamed to one, because parsing takes robots times rules."""

    def rename(line: re.Match[str]) -> str:
        name = line[1].lower()
        return f"User-agent: {name if name in ('*', robot.lower()) else 'another robot'}"

    text = body[:MAX_BYTES].removeprefix(codecs.BOM_UTF8).decode("utf-8", KEEP_BYTES)
    return _AGENT.sub(rename, LINE_END.sub("\n", text).translate(NO_LINE_ENDS))


def _percent_encoded(error: UnicodeError) -> tuple[str, int]:
    """Percent-encode bytes that are not UTF-8, so that a rule with them still applies."""
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error(KEEP_BYTES, _percent_encoded)
