"""Detection of responses that are no pages, such as images and archives served under a page's URL."""

from web_poet import HttpResponse

BEGINNINGS = (  # first bytes -> type, of files that are no pages
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"%PDF-", "a PDF file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PAR1", "a Parquet file"),
    (b"wOF", "a font"),
)
BOXES = ((b"ftypavif", "an AVIF image"), (b"ftyp", "a video or an HEIF image"), (b"WEBP", "a WebP image"))
MEDIA = ("image/", "audio/", "video/", "font/")
MARKS = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16, whose texts contain zero bytes
HEAD = 512  # bytes that are examined


def not_a_page(response: HttpResponse) -> str | None:
    """The type of ``response`` if it is not HTML, XML, JSON or text; else None."""
    head = response.body[:HEAD]
    found = [what for start, what in BEGINNINGS if head.startswith(start)]
    found += [what for name, what in BOXES if name in head[4:16] and b"\0" in head]
    if found and (b"\0" in head or not head.isascii() or found[0].startswith("a PDF")):
        return found[0]
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type.startswith(MEDIA) and content_type != "image/svg+xml" and b"<html" not in head.lower():
        return content_type
    return "binary data" if b"\0" in head and not head.startswith(MARKS) else None
