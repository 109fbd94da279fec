"""XHTML for a parser of HTML: where a page says that it is XML, an element may end in its own tag.

Browsers heed that only where the header says XML; in ``text/html`` the slash counts for nothing. Knows no page.
"""

import re

XML_TYPES = ("application/xhtml+xml", "application/xml", "text/xml", "application/vnd.wap.xhtml+xml")
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}

_CLOSED = re.compile(r"""<([A-Za-z][\w:.-]*+)((?:[^<>"'/]|/(?!>)|"[^"<]*"|'[^'<]*')*+)/>""")


def opened(text: str, content_type: str) -> str:
    """``text``; an element that ends in its own tag gets an end tag, if ``content_type`` (the header) says XML."""
    if content_type.partition(";")[0].strip().lower() not in XML_TYPES:
        return text
    return _CLOSED.sub(lambda tag: tag[0] if tag[1].lower() in VOID else f"<{tag[1]}{tag[2]}></{tag[1]}>", text)
