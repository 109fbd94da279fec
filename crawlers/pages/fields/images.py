"""Finds the largest version of an image element's image, and compares image URLs."""

import re
from functools import lru_cache
from urllib.parse import unquote

from crawlers.pages.html.elements import Element, ancestors
from crawlers.pages.text.values import MAX_URL, url_path

UNKNOWN = float("inf")  # px, if the URL states no size: most often that of the original

FILE = re.compile(r"\.(jpe?g|png|webp|gif|avif|bmp|tiff?)$", re.IGNORECASE)
FULL = re.compile(r"zoom|large|full|orig|hi-?res|high|big|max", re.IGNORECASE)  # in attribute names
LAZY = ("data-src", "data-lazy-src", "data-lazy", "data-original-src", "data-lazyload", "data-image", "src")
# Whole words at the end of a file name, or folders, so that "logo-tee.jpg" remains a product image.
PLACEHOLDER = re.compile(
    r"(^|[/_.-])(placeholder|no[-_]?(image|photo|picture|img)|noimg|image[-_]?(missing|not[-_]?(available|found))|"
    r"coming[-_]?soon|blank|spacer|pixel|loading|loader([-_]\d+)?|transparent|1x1)([-_.]?\w{0,12}x?\d*)?\.\w+$|/placeholder/",
    re.IGNORECASE,
)
DECORATION = re.compile(
    r"(^|[/_.-])(sprites?|icons?|logo|favicon|flags?|badges?|avatars?|arrows?|stars?|banners?)([_.-]?\d*)\.\w+$|"
    r"/(icons?|sprites?|flags?|badges?)/|\.svg$|"
    r"/(wp-content/themes|skin/frontend|view/theme|t/\d+/assets)/|"  # of WordPress, Magento, OpenCart, Shopify
    r"/(themes?|skins?|templates?)/[^/]+/(img|images?|assets|icons?|css)/",
    re.IGNORECASE,
)
SIZE = re.compile(  # part of a URL that differs between versions of one image
    r"[_-]?\d{2,4}x\d{2,4}|[_-]\d{2,4}x|[_-](thumb(nail)?|small|medium|large|big|zoom|full|grande|master|home|cart)"
    r"(_default)?(?=[./_-])|/(thumbs?|thumbnails?|small|medium|large|big|zoom|full|originals?|resized?|scaled|cache/\w+)"
    r"(?=/)|(?<=/)(thumb(nail)?|small|medium|large|big|mini)[_-]|\.\d{2,4}\.\d{2,4}(?=\.\w{3,4}$)|\._[A-Z0-9,_]+_(?=\.\w{3,4}$)|/[wh]_?\d{2,4}(,[a-z]+_[^/]*)?(?=/)",
    re.IGNORECASE,
)
PIXELS = re.compile(
    r"(?<!\d)(\d{2,4})x(?:\d{2,4})?(?!\d)|\.(\d{2,4})\.\d{2,4}(?=\.\w{3,4}$)|\._(?:S[LXY]|U[XY]|A?C_?S[LXY])(\d{2,4})_|"
    r"/[wh]_?(\d{2,4})(?=[/,])",
    re.IGNORECASE,
)
PIXEL_PARAMETER = re.compile(r"[?&](?:s?w|width|wid|imwidth|size)=(\d{2,4})(?:&|$)", re.IGNORECASE)
SMALL = re.compile(r"[/_-](thumb(nail)?s?|small|mini|tiny|icon)(_default)?(?=[./_-])", re.IGNORECASE)
SMALL_VERSION_PX, MEDIUM_VERSION_PX = 100, 400  # assumed widths, used for sorting only
MEDIUM = re.compile(r"[/_-](medium|preview|home|resized?)(_default)?(?=[./_-])", re.IGNORECASE)
MADE_OF = re.compile(r"(\.(?:jpe?g|png|webp|gif))\.\d+x\d+_q\d+[^/]*$", re.IGNORECASE)  # names by easy-thumbnails
SIZE_PARAMETER = re.compile(r"(w|h|q|width|height|quality|size|dpr|fit|format|auto)=", re.IGNORECASE)
CANDIDATE = re.compile(r"[^\s,]\S*")  # a URL, which may contain commas
DESCRIPTORS = re.compile(r"(?:[^,(]|\([^)]*\)?)*,?")  # after the URL; commas in parentheses belong to a descriptor
DESCRIPTOR = re.compile(r"(?<!\S)(\d{1,9}(?:\.\d{1,9})?(?:e\d)?)[wx](?![^\s,])", re.IGNORECASE)
WIDTH = re.compile(r"\d{2,4}")
MAX_SRCSET = 20_000  # characters
SMALL_PX = 60  # an image below this size without a larger version is an icon


@lru_cache(maxsize=4096)  # called several times for one image
def is_placeholder(url: str) -> bool:
    """Whether ``url`` is named like a placeholder for a missing product image."""
    return PLACEHOLDER.search(unquote(url_path(url))) is not None


@lru_cache(maxsize=4096)  # called several times for one image
def is_decoration(url: str) -> bool:
    """Whether ``url`` is named like an icon or a logo."""
    return DECORATION.search(unquote(url_path(url))) is not None


def original_of(url: str) -> str:
    """The URL of the original if the name of ``url`` includes it: shirt.jpg of shirt.jpg.440x400_q85.jpg."""
    return MADE_OF.sub(r"\1", url)


@lru_cache(maxsize=4096)  # called several times for one image
def image_key(url: str) -> str:
    """A key that all sizes of the image at ``url`` share; includes the query if the path names no image file."""
    path, _, query = url.partition("?")
    own = [] if FILE.search(path) else [part for part in query.split("&") if not SIZE_PARAMETER.match(part)]
    return SIZE.sub("", unquote("?".join([path.partition("://")[2] or path, *own])))


@lru_cache(maxsize=4096)  # called several times for one image
def width_of(url: str) -> float:
    """The image's width (px) that ``url`` states; an assumed one if it has a word such as thumb; else `UNKNOWN`."""
    path = unquote(url_path(url))
    widths = [int(number) for found in PIXELS.finditer(path) for number in found.groups() if number]
    widths += [int(found[1]) for found in PIXEL_PARAMETER.finditer(url[:MAX_URL])]
    if widths:
        return max(widths)
    return SMALL_VERSION_PX if SMALL.search(path) else MEDIUM_VERSION_PX if MEDIUM.search(path) else UNKNOWN


def images_of(element: Element) -> list[tuple[int, str]]:
    """The best URL of each image in ``element`` (or of ``element`` itself), with its rank; 0 is full size.

    Rank 0 is the target of a zoom (``data-zoom-image``, ``data-large_image``, ...) or of the image's link, rank 1 the
    largest candidate of ``srcset``, rank 2 ``src`` or the attribute that replaces it for lazy loading.
    """
    images = [element] if element.tag in ("img", "source") else element.xpath(".//img")
    found = [best for best in (_best(image) for image in images) if best]
    if not found and element.tag == "a" and is_file(href := element.get("href", "")):
        found = [(0, href)]
    return found


def link_around(element: Element) -> Element | None:
    """The link around ``element``."""
    return next((parent for parent in ancestors(element) if parent.tag == "a"), None)


def _best(image: Element) -> tuple[int, str] | None:
    link = link_around(image)
    for holder in (image, link) if link is not None else (image,):
        for name, value in holder.attrib.items():
            if name != "href" and name.startswith("data-") and FULL.search(name) and is_file(value):
                return 0, value
    if link is not None and is_file(href := link.get("href", "")):
        return 0, href
    largest = _largest(image)
    if largest:
        return 1, largest
    if _is_small(image):
        return None
    plain = next(
        (url for name in LAZY if (url := _filled_in(image.get(name, ""), image))[:5] not in ("", "data:")), None
    )
    return (2, original_of(plain)) if plain else None


def _filled_in(url: str, image: Element) -> str:
    """Fill in the largest width if ``url`` is a lazy loader's template; empty if it cannot be filled in."""
    template = url.replace("%7Bwidth%7D", "{width}")
    if "{" not in template:
        return url
    widths = [int(number) for number in WIDTH.findall(image.get("data-widths", "")[:MAX_SRCSET])]
    filled = template.replace("{width}", str(max(widths, default=0)))
    return filled if widths and "{" not in filled else ""


def _largest(image: Element) -> str | None:
    """The largest candidate of all ``srcset`` attributes."""
    around = next((parent for parent in ancestors(image) if parent.tag == "picture"), None)
    holders = [image] if around is None else [image, *around.iter("source")]
    best: tuple[float, str] | None = None
    for holder in holders:
        for name in ("srcset", "data-srcset", "data-lazy-srcset"):
            for url, weight in candidates(holder.get(name, "")[:MAX_SRCSET]):
                usable = ("/" in url or "." in url) and not url.startswith("data:") and "{" not in url
                if usable and (best is None or weight > best[0]):
                    best = weight, url
    return best[1] if best else None


def candidates(srcset: str) -> list[tuple[str, float]]:
    """The URLs of ``srcset`` with their widths or densities; https://html.spec.whatwg.org/#parse-a-srcset-attribute."""
    found: list[tuple[str, float]] = []
    position = 0
    while start := CANDIDATE.search(srcset, position):
        url, position = start[0], start.end()
        weight = 1.0
        if url.endswith(","):
            url = url.rstrip(",")
        else:
            described = DESCRIPTORS.match(srcset, position)
            position = described.end() if described else len(srcset)
            size = DESCRIPTOR.search(described[0]) if described else None
            weight = float(size[1]) if size else 1.0
        found.append((url, weight))
    return found


def is_file(value: str) -> bool:
    """Whether an attribute's ``value`` is the URL of an image file, not a number, a flag or a page."""
    value = value.strip() if len(value) <= MAX_URL else ""
    return " " not in value and "{" not in value and FILE.search(url_path(value)) is not None


def _is_small(image: Element) -> bool:
    sizes = [image.get(name, "") for name in ("width", "height")]
    return any(size.isascii() and size.isdigit() and len(size) < 6 and int(size) < SMALL_PX for size in sizes)
