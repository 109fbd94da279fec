"""URLs as they are asked for: every character as it was written, but for those that cannot be sent.

Signed URLs, and servers of images that take another URL in theirs, know a file under one spelling only. So nothing
that is percent-encoded is decoded, nothing that can be sent is encoded, and the rest is what browsers do
(https://url.spec.whatwg.org/): unsafe characters and those that are not ASCII are encoded, backslashes in the path of
a link are slashes, tabs and line ends in it count for nothing, dot segments are resolved.
"""

import re
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from yarl import URL

EDGES = "".join(map(chr, range(33)))  # control characters and the space: no part of a URL at its ends
_DROPPED = str.maketrans("", "", "\t\n\r")  # no part of it anywhere
_WHOLE = re.compile(r"(https?)://([^/?#\\]*)([^?#]*)(\?[^#]*)?", re.IGNORECASE)
_IN_PATH = re.compile(r"[^!$-;=@-\]_a-z|~]+")  # what browsers encode there
_IN_QUERY = re.compile(r"[^!$-&(-;=?-~]+")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?=/|$)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def sent(url: str) -> str:
    """``url`` as a client asks for it: without user and password, which are nobody's business, and without fragment.

    Calling it again changes nothing.

    Raises:
        ValueError: it is no URL of http or https, or of no host that could exist.
    """
    whole = _WHOLE.match(url.strip(EDGES).translate(_DROPPED))
    if whole is None:
        raise ValueError(f"expected http://... or https://..., got {url[:100]!r}")
    scheme, authority, path, query = whole[1].lower(), whole[2], whole[3], whole[4] or ""
    authority = _authority(authority.rpartition("@")[2], _DEFAULT_PORTS[scheme])
    path = _IN_PATH.sub(_encoded, path.replace("\\", "/"))
    if _DOTS.search(path):
        path = _without_dots(path)
    return f"{scheme}://{authority}{path or '/'}{_IN_QUERY.sub(_encoded, query)}"


def joined(base: str, url: str, encoding: str = "utf-8") -> str:
    """``url``, as it stands on the page ``base``, made absolute; what is no link of http stays what it is.

    Args:
        base: absolute.
        url: as written.
        encoding: of the page: browsers send the query of its links in it.

    Raises:
        ValueError: it is no URL.
    """
    url = url.strip(EDGES).translate(_DROPPED)
    before, mark, fragment = url.partition("#")
    path, question, query = before.partition("?")
    if "\\" in path and not re.match(r"[a-z][a-z0-9+.-]*:(?<!http:)(?<!https:)", path, re.IGNORECASE):
        path = path.replace("\\", "/")
    if path.startswith("///"):
        path = "//" + path.lstrip("/")
    if path.startswith("//") and not path[2:]:
        raise ValueError("expected a host, got //")
    if encoding.lower() not in ("utf-8", "utf8") and not query.isascii():
        query = _in_encoding(query, encoding)
    if question and not query:  # urljoin loses an empty query
        return (urljoin(base, path) if path else re.split("[?#]", base, maxsplit=1)[0]) + "?" + mark + fragment
    return urljoin(base, path + question + query) + mark + fragment


def location(base: str, header: bytes) -> str:
    """Where a redirect from ``base`` leads: each byte of its Location that is not ASCII percent-encoded, as curl does.

    Raises:
        ValueError: nowhere that can be asked for.
    """
    text = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in header)
    if not text.strip(EDGES):
        raise ValueError("expected a URL in Location, got nothing")
    return sent(joined(base, text))


def percent_encoded(text: str) -> str:
    """``text`` in UTF-8 as it stands in URLs; halves of surrogate pairs as U+FFFD, as browsers do."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(f"%{byte:02X}" for byte in whole.encode())


def _encoded(found: re.Match[str]) -> str:
    return percent_encoded(found[0])


def _in_encoding(query: str, encoding: str) -> str:
    """The characters of ``query`` that are not ASCII in ``encoding``; those that it lacks as numbers, as forms do."""
    try:
        return "".join(one if one.isascii() else _bytes_encoded(one, encoding) for one in query)
    except (LookupError, UnicodeError):
        return query


def _bytes_encoded(character: str, encoding: str) -> str:
    written = character.encode(encoding, "xmlcharrefreplace")
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 0x80 else f"%{byte:02X}" for byte in written)


@lru_cache(maxsize=1024)  # few hosts, many URLs
def _authority(authority: str, default_port: str) -> str:
    """Host and port: the host in lower case, as it is looked up, the port only where it is not the usual one."""
    parts = urlsplit(f"//{authority}")
    host, port = parts.hostname or "", parts.port  # both raise ValueError
    if not host or port == 0 or any(character in host for character in ' %<>"^`{|}\\'):
        raise ValueError(f"expected a host, got {authority[:100]!r}")
    host = f"[{host}]" if ":" in host else host
    if not host.startswith("["):
        host.encode("idna")  # a UnicodeError: an empty label, one that is too long, or no name in any script
    if not host.isascii():
        host = URL(f"http://{host}").raw_host or ""
    text = "" if port is None else f":{port}"
    return host + (text if text != default_port else "")


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for place, segment in enumerate(segments):
        dots = segment.lower().replace("%2e", ".")
        if dots == "..":
            del kept[-1:]
        elif dots != ".":
            kept.append(segment)
        if dots in (".", "..") and place == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)
