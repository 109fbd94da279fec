"""Seeded damage to bytes: bit flips, truncation, splices, extreme numbers, deep nesting, other encodings, NULs.

`mutated` knows nothing of formats. `hostile_images` and `hostile_pages` add what is specific to theirs.
"""

import codecs
import re
import struct
from collections.abc import Callable, Sequence
from random import Random

EXTREMES = (0, 1, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
NUMBERS = (
    *("0", "-0", "-1", "1e999", "-1e999", "NaN", "Infinity", "9" * 400, "9" * 5000, "1e-400", "0x10", "010", "1_0"),
    *("99999999999.99", "2147483648", "18446744073709551616", "٣", "１２", "½", "1.2.3", ""),
)
STRANGE = (
    *("\x00", "\ufeff", "\u202e", "\u200b", "\ud800", "\u2028", "\x1b[31m", "\x85", "\r", "\r\n", "\n", "\t", "\x0c"),
    *(
        "'",
        '"',
        "\\",
        "\\u0000",
        "\\ud800",
        "`",
        "<!--",
        "]]>",
        "<![CDATA[",
        "&#0;",
        "&#xD800;",
        "&amp;amp;",
        "%",
        "%00",
    ),
    *("null", "true", "{}", "[]", "[[]]", "!!python/object:os.system", "*a", "&a ", "<<: ", "? ", "- ", "---", "...\n"),
    *(
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://[",
        "http://a:99999/",
        "javascript:alert(1)",
        "=1+1",
        "->",
        " > ",
    ),
    *("𝒳" * 50, "e\u0301" * 20, "ß", "İ", "A" * 10_000, "," * 300, ";", "|"),
)
NESTED = (
    ("[", "]"),
    ("{", "}"),
    ('{"a":', "}"),
    ("(", ")"),
    ("<div>", "</div>"),
    ("<a>", "</a>"),
    ("- ", ""),
    ("> ", ""),
)
MAX_BYTES = 3_000_000  # of a mutated input

Mutation = Callable[[bytes, Random], bytes]


def mutated(data: bytes, random: Random, others: Sequence[bytes] = (), more: Sequence[Mutation] = ()) -> bytes:
    """Damage ``data`` one to four times; once in fifty, leave it as it is.

    Args:
        data: a valid input.
        random: decides everything.
        others: further valid inputs, whose pieces may be spliced in.
        more: damages that are specific to the format; half of all damages are of these, if there are any.
    """
    if random.random() < 0.02:
        return data
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        if more and random.random() < 0.5:
            data = random.choice(more)(data, random)
        elif others and random.random() < 0.08:
            data = _spliced(data, random.choice(others), random)
        else:
            data = random.choice(_ANY)(data, random)
    return data[:MAX_BYTES]


def mutated_text(data: bytes, random: Random, others: Sequence[bytes] = (), more: Sequence[Mutation] = ()) -> bytes:
    """As `mutated`, for formats of text: half of the damages are to numbers, lines, nesting and encoding."""
    return mutated(data, random, others, [*more, *_TEXT] if random.random() < 0.7 else more)


def place(data: bytes, random: Random) -> int:
    """A position in ``data``, in half of the cases near its beginning or its end, where headers are."""
    near = random.choice((len(data), 64, 512, -64))
    return random.randrange(min(near, len(data)) + 1) if near > 0 else max(0, len(data) - random.randrange(65))


def _flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8, 64)) if data else 0):
        changed[min(place(data, random), len(data) - 1)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _set(data: bytes, random: Random) -> bytes:
    at, count = place(data, random), random.choice((1, 1, 2, 4, 16))
    return data[:at] + bytes([random.choice((0, 255, 0x20, random.randrange(256)))]) * count + data[at + count :]


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: place(data, random)]


def _delete(data: bytes, random: Random) -> bytes:
    at = place(data, random)
    return data[:at] + data[at + random.choice((1, 1, 2, 4, 16, 100, 1000)) :]


def _insert(data: bytes, random: Random) -> bytes:
    at = place(data, random)
    return data[:at] + random.randbytes(random.choice((1, 1, 2, 4, 16, 300))) + data[at:]


def _duplicate(data: bytes, random: Random) -> bytes:
    at, count = place(data, random), random.choice((1, 4, 16, 100, 1000))
    return data[:at] + data[at : at + count] * random.choice((2, 2, 3, 20)) + data[at + count :]


def _swap(data: bytes, random: Random) -> bytes:
    first, second, third = sorted(random.randrange(len(data) + 1) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _extreme_integer(data: bytes, random: Random) -> bytes:
    """Overwrite 2, 4 or 8 bytes, such as a length or a dimension."""
    kind, at = random.choice("HIQ"), place(data, random)
    size = struct.calcsize(kind)
    value = random.choice(EXTREMES) % 2 ** (8 * size)
    return data[:at] + struct.pack(random.choice("<>") + kind, value) + data[at + size :]


def _spliced(data: bytes, other: bytes, random: Random) -> bytes:
    return data[: place(data, random)] + other[place(other, random) :]


def _insert_text(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(STRANGE).encode("utf-8", "surrogatepass") + data[at:]


def _number(data: bytes, random: Random) -> bytes:
    found = list(re.finditer(rb"-?\d[\d.,]*", data[:200_000]))
    if not found:
        return data
    one = random.choice(found)
    return data[: one.start()] + random.choice(NUMBERS).encode() + data[one.end() :]


def _lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    kind = random.randrange(4)
    if kind == 0:
        del lines[first]
    elif kind == 1:
        lines.insert(first, lines[second])
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        lines[first] = lines[first][: random.randrange(len(lines[first]) + 1)]
    return b"\n".join(lines)


def _nest(data: bytes, random: Random) -> bytes:
    at, (opening, closing) = random.randrange(len(data) + 1), random.choice(NESTED)
    depth = random.choice((3, 30, 300, 3_000, 100_000))
    return data[:at] + opening.encode() * depth + closing.encode() * random.choice((0, depth)) + data[at:]


def _quoted(data: bytes, random: Random) -> bytes:
    """Replace the text between two quotation marks."""
    found = list(re.finditer(rb'"[^"\n]{0,200}"', data[:200_000]))
    if not found:
        return data
    one = random.choice(found)
    new = random.choice((*STRANGE, *NUMBERS)).encode("utf-8", "surrogatepass")
    return data[: one.start() + random.randrange(2)] + new + data[one.end() - random.randrange(2) :]


def _encode(data: bytes, random: Random) -> bytes:
    text = data.decode("utf-8", "replace")
    kind = random.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "cp037", "utf-7", "bom"))
    if kind == "bom":
        return random.choice((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) + data
    return text.encode(kind, "replace")


_ANY = (_flip, _flip, _flip, _set, _truncate, _delete, _insert, _duplicate, _swap, _extreme_integer)
_TEXT = (_insert_text, _insert_text, _number, _number, _lines, _nest, _quoted, _quoted, _encode)
