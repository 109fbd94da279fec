"""Minimal normalisation of URLs for requests, as browsers do it (https://url.spec.whatwg.org/).

Signed URLs and image servers depend on the exact spelling. Therefore percent-encoded characters are not decoded, and
valid characters are not encoded. Unsafe and non-ASCII characters are encoded, backslashes in the path become slashes,
tabs and line ends are removed, and dot segments are resolved.
"""

import re
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from yarl import URL

EDGES = "".join(map(chr, range(33)))  # control characters and the space, stripped from both ends
_DROPPED = str.maketrans("", "", "\t\n\r")  # removed everywhere
_WHOLE = re.compile(r"(https?)://([^/?#\\]*)([^?#]*)(\?[^#]*)?", re.IGNORECASE)
_IN_PATH = re.compile(r"[^!$-;=@-\]_a-z|~]+")  # characters that browsers encode in a path
_IN_QUERY = re.compile(r"[^!$-&(-;=?-~]+")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?=/|$)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def request_url(url: str) -> str:
    """The URL that a client requests for ``url``: normalised, without user, password and fragment. Idempotent.

    Raises:
        ValueError: it is not an http or https URL, or its host or port is invalid.
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


def join_url(base: str, url: str, encoding: str = "utf-8") -> str:
    """Resolve the link ``url`` on the page ``base``; links of other schemes are unchanged.

    Args:
        base: absolute URL.
        url: link as written on the page.
        encoding: character encoding of the page, in which browsers encode the query of a link.

    Raises:
        ValueError: ``url`` is invalid.
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


def redirect_target(base: str, header: bytes) -> str:
    """The target of a redirect from ``base``; non-ASCII bytes of Location are percent-encoded, as in curl.

    Raises:
        ValueError: the target cannot be requested.
    """
    text = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in header)
    if not text.strip(EDGES):
        raise ValueError("expected a URL in Location, got an empty value")
    return request_url(join_url(base, text))


def percent_encoded(text: str) -> str:
    """Percent-encode ``text`` as UTF-8; unpaired surrogates become U+FFFD, as in browsers."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(f"%{byte:02X}" for byte in whole.encode())


def _encoded(found: re.Match[str]) -> str:
    return percent_encoded(found[0])


def _in_encoding(query: str, encoding: str) -> str:
    """Percent-encode non-ASCII characters of ``query`` in ``encoding``; those that it lacks become numeric entities."""
    try:
        return "".join(one if one.isascii() else _bytes_encoded(one, encoding) for one in query)
    except (LookupError, UnicodeError):
        return query


def _bytes_encoded(character: str, encoding: str) -> str:
    written = character.encode(encoding, "xmlcharrefreplace")
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 0x80 else f"%{byte:02X}" for byte in written)


@lru_cache(maxsize=1024)  # few hosts, many URLs
def _authority(authority: str, default_port: str) -> str:
    """Host and port: the host in lower case and IDNA, the port only if it is not the scheme's default."""
    parts = urlsplit(f"//{authority}")
    host, port = parts.hostname or "", parts.port  # both raise ValueError
    if not _is_host(host) or port == 0:
        raise ValueError(f"expected a host, got {authority[:100]!r}")
    host = f"[{host}]" if ":" in host else host
    if not host.startswith("["):
        host.encode("idna")  # raises UnicodeError for an empty, too long or invalid label
    if not host.isascii():
        host = URL(f"http://{host}").raw_host or ""
        if not _is_host(host):  # "\N{MACRON}" becomes a space and an accent
            raise ValueError(f"expected a host, got {authority[:100]!r}")
    text = "" if port is None else f":{port}"
    return host + (text if text != default_port else "")


def _is_host(text: str) -> bool:
    return bool(text) and not any(character <= " " or character in '%<>"^`{|}\\\x7f' for character in text)


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
