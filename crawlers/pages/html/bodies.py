"""Whether what came is a page at all: an image or an archive read as HTML says nothing, or nonsense."""

from web_poet import HttpResponse

BEGINNINGS = (  # of files that are no pages
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
BOXES = ((b"ftypavif", "an AVIF image"), (b"ftyp", "a film, or an image like one"), (b"WEBP", "a WebP image"))
MEDIA = ("image/", "audio/", "video/", "font/")
MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16, which has zero bytes in it
HEAD = 512  # bytes that are looked at


def not_a_page(response: HttpResponse) -> str | None:
    """What ``response`` is instead of HTML, XML, JSON or text; None if it may be one of these."""
    head = response.body[:HEAD]
    found = [what for start, what in BEGINNINGS if head.startswith(start)]
    found += [what for name, what in BOXES if name in head[4:16] and b"\0" in head]
    if found and (b"\0" in head or not head.isascii() or found[0].startswith("a PDF")):
        return found[0]
    said = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if said.startswith(MEDIA) and said != "image/svg+xml" and b"<html" not in head.lower():
        return said
    return "binary data" if b"\0" in head and not head.startswith(MARKS) else None
