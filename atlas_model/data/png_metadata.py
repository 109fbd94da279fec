"""Removes metadata from PNG files, because Pillow rejects some images for their metadata alone; checks their pixels.

Pillow rejects a file if a compressed profile or text in it is larger than 1 MB, or if the checksum of a metadata chunk
is wrong. Neither affects the pixels. Chunks that may hold the EXIF orientation are kept if they are valid and small.
Pillow does not compare the checksum of the pixels (IDAT): it decodes damaged ones to other pixels.
Specification: PNG (third edition), W3C, sections 4.7, 5.3 and 11.3.
"""

import struct
import zlib

from atlas_model.core.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORDS = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # of text chunks that Pillow searches for the orientation
PIXELS = (b"tRNS",)  # ancillary chunks that affect the pixels of the first image
ANIMATION = (b"acTL", b"fcTL", b"fdAT")  # of the others; Pillow takes fdAT for missing pixels of the first one
MAX_UNPACKED = 1 << 20  # bytes after decompression: Pillow's limit (PngImagePlugin.MAX_TEXT_CHUNK)
MAX_TEXT = 4 << 20  # bytes of an uncompressed text; Pillow's limit is 64 MB in all
MAX_KEPT = 8  # metadata chunks that are kept
HEAD, CHECKSUM = 8, 4  # bytes around a chunk's content


def without_metadata(data: bytes, *, animation: bool = False) -> bytes:
    """Remove the metadata of a PNG; other ``data`` is returned as it is.

    Args:
        data: of the file.
        animation: whether to keep further images of an animation, in order to count them.

    Raises:
        ImageError: a chunk that the pixels depend on is incomplete, or differs from its checksum.
    """
    if not data.startswith(SIGNATURE):
        return data
    view, start, at, kept = memoryview(data), 0, len(SIGNATURE), 0
    parts: list[memoryview] = []
    while at + HEAD <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + HEAD + size + CHECKSUM
        if kind == b"IEND":
            break
        if kind[:1].isupper() and (end > len(data) or not _is_intact(view[at + 4 : end])):  # critical
            name = kind.decode("ascii", "replace")
            raise ImageError("truncated", f"the chunk {name} of a PNG is incomplete, or differs from its checksum")
        if end > len(data):
            break
        if kind[:1].islower() and kind not in (*PIXELS, *(ANIMATION if animation else ())):  # ancillary
            if kept < MAX_KEPT and _may_say_orientation(kind, data[at + HEAD : end]):
                kept += 1
            else:
                parts.append(view[start:at])
                start = end
        at = end
    return b"".join([*parts, view[start:]]) if parts else data


def _is_intact(chunk: memoryview) -> bool:
    """Whether the kind and content of a chunk fit its checksum."""
    return zlib.crc32(chunk[:-CHECKSUM]) == int.from_bytes(chunk[-CHECKSUM:], "big")


def _may_say_orientation(kind: bytes, content: bytes) -> bool:
    """Whether a chunk (with its checksum) may hold the orientation, and is valid and small."""
    text, checksum = content[:-CHECKSUM], int.from_bytes(content[-CHECKSUM:], "big")
    if kind not in (b"eXIf", b"tEXt", b"zTXt", b"iTXt") or zlib.crc32(text, zlib.crc32(kind)) != checksum:
        return False
    if kind == b"eXIf":
        return True
    keyword, _, rest = text.partition(b"\0")
    if keyword not in KEYWORDS:
        return False
    if kind == b"iTXt":  # the text follows a flag, the method, the language and the translated keyword
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    elif kind == b"zTXt":  # the text follows the method, which must be 0
        if rest[:1] != b"\0":
            return False
        packed, rest = True, rest[1:]
    else:
        packed = False
    return _fits(rest) if packed else len(rest) <= MAX_TEXT


def _fits(packed: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, MAX_UNPACKED)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
