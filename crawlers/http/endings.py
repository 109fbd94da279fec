"""Detection of truncated bodies whose length no header proves.

Without Content-Length and chunks, the end of the connection is the end of the body, whoever ended it. And a server that
states too small a length sends more than that. Only the content can tell then whether it is whole.
"""

import json
import re

HEAD, TAIL = 4096, 2000  # first and last bytes that are searched
HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE)
HTML_END = re.compile(rb"</(?:html|body)\b", re.IGNORECASE)
XML = re.compile(rb"\s*(?:\xef\xbb\xbf)?(?:<\?xml\b|<(?:\w+:)?(?:urlset|sitemapindex)[\s>])")
XML_END = re.compile(rb"</(?:\w+:)?(?:urlset|sitemapindex|html|body|rss|feed)\s*>", re.IGNORECASE)
IMAGE_ENDS = {  # start of an image -> its end, which other bytes may follow
    b"\xff\xd8\xff": b"\xff\xd9",  # JPEG
    b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82",
}


def is_json(content_type: str) -> bool:
    """Whether a Content-Type header says that the body is JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("application/json", "text/json", "application/ld+json")


def is_broken_json(body: bytes) -> bool:
    """Whether ``body`` is no valid JSON."""
    try:
        json.loads(body)
    except RecursionError:
        return False
    except ValueError:
        return True
    return False


def looks_truncated(body: bytes, content_type: str = "") -> bool:
    """Whether ``body``, of a page, a sitemap or an image, is empty or lacks its end."""
    head, tail = body[:HEAD], body[-TAIL:]
    if is_json(content_type):
        return is_broken_json(body)
    if head.startswith(b"RIFF"):  # WebP
        return len(body) < 8 + int.from_bytes(body[4:8], "little")
    if head.startswith(b"GIF8"):
        return not tail.rstrip(b"\0").endswith(b";")
    if end := next((end for start, end in IMAGE_ENDS.items() if head.startswith(start)), None):
        return end not in tail
    if XML.match(head):
        return not XML_END.search(tail)
    return not body.strip() or (bool(HTML.search(head)) and not HTML_END.search(tail))
