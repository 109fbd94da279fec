"""Conversion of XHTML's self-closing tags (``<div/>``) for an HTML parser.

As in browsers, they count only if the content type is XML; in ``text/html`` the slash is ignored.
"""

import re

XML_TYPES = ("application/xhtml+xml", "application/xml", "text/xml", "application/vnd.wap.xhtml+xml")
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}

_CLOSED = re.compile(r"""<([A-Za-z][\w:.-]*+)((?:[^<>"'/]|/(?!>)|"[^"<]*"|'[^'<]*')*+)/>""")


def expand_empty_tags(text: str, content_type: str) -> str:
    """``text`` with an end tag for each self-closing tag, if the header ``content_type`` says XML; else unchanged."""
    if content_type.partition(";")[0].strip().lower() not in XML_TYPES:
        return text
    return _CLOSED.sub(lambda tag: tag[0] if tag[1].lower() in VOID else f"<{tag[1]}{tag[2]}></{tag[1]}>", text)
