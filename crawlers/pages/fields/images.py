"""From an image's element to the URL of its largest version. Knows neither shops nor where a gallery is."""

import re
from functools import lru_cache
from urllib.parse import unquote

from crawlers.pages.html.elements import Element, above
from crawlers.pages.text.values import MAX_URL, url_path

UNKNOWN = float("inf")  # px, of an image whose URL says no size: mostly the one that the others were made of

FILE = re.compile(r"\.(jpe?g|png|webp|gif|avif|bmp|tiff?)$", re.IGNORECASE)
FULL = re.compile(r"zoom|large|full|orig|hi-?res|high|big|max", re.IGNORECASE)  # in names of attributes
LAZY = ("data-src", "data-lazy-src", "data-lazy", "data-original-src", "data-lazyload", "data-image", "src")
# Whole words at the end of a file's name, or folders: a shirt called "logo-tee.jpg" is a product.
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
SIZE = re.compile(  # what the versions of one image differ in
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
SMALL_VERSION_PX, MEDIUM_VERSION_PX = 100, 400  # for the sake of an order
MEDIUM = re.compile(r"[/_-](medium|preview|home|resized?)(_default)?(?=[./_-])", re.IGNORECASE)
MADE_OF = re.compile(r"(\.(?:jpe?g|png|webp|gif))\.\d+x\d+_q\d+[^/]*$", re.IGNORECASE)  # as easy-thumbnails names them
SIZE_PARAMETER = re.compile(r"(w|h|q|width|height|quality|size|dpr|fit|format|auto)=", re.IGNORECASE)
CANDIDATE = re.compile(r"[^\s,]\S*")  # a URL, perhaps with commas
DESCRIPTORS = re.compile(r"(?:[^,(]|\([^)]*\)?)*,?")  # what stands behind it; commas in parentheses are part of that
DESCRIPTOR = re.compile(r"(?<!\S)(\d{1,9}(?:\.\d{1,9})?(?:e\d)?)[wx](?![^\s,])", re.IGNORECASE)
WIDTH = re.compile(r"\d{2,4}")
MAX_SRCSET = 20_000  # characters
SMALL_PX = 60  # a smaller image without a larger version is an icon


@lru_cache(maxsize=4096)  # asked several times of one image
def is_placeholder(url: str) -> bool:
    """Whether ``url`` is called what shops call the image of a product that has none."""
    return PLACEHOLDER.search(unquote(url_path(url))) is not None


@lru_cache(maxsize=4096)  # asked several times of one image
def is_decoration(url: str) -> bool:
    """Whether ``url`` is called like an icon or a logo."""
    return DECORATION.search(unquote(url_path(url))) is not None


def full_size(url: str) -> str:
    """The image that ``url`` was made of, where its name says so: shirt.jpg of shirt.jpg.440x400_q85.jpg."""
    return MADE_OF.sub(r"\1", url)


@lru_cache(maxsize=4096)  # asked several times of one image
def same_image(url: str) -> str:
    """What all sizes of the image at ``url`` have in common; the query counts where the path names no image."""
    path, _, query = url.partition("?")
    own = [] if FILE.search(path) else [part for part in query.split("&") if not SIZE_PARAMETER.match(part)]
    return SIZE.sub("", unquote("?".join([path.partition("://")[2] or path, *own])))


@lru_cache(maxsize=4096)  # asked several times of one image
def pixels_of(url: str) -> float:
    """The width that ``url`` says the image has, a guess where it says a word, else `UNKNOWN`."""
    path = unquote(url_path(url))
    said = [int(number) for found in PIXELS.finditer(path) for number in found.groups() if number]
    said += [int(found[1]) for found in PIXEL_PARAMETER.finditer(url[:MAX_URL])]
    if said:
        return max(said)
    return SMALL_VERSION_PX if SMALL.search(path) else MEDIUM_VERSION_PX if MEDIUM.search(path) else UNKNOWN


def images_of(element: Element) -> list[tuple[int, str]]:
    """The best URL of each image in ``element`` (itself, where it is one), with its rank: 0 is full size.

    Full size is what a zoom shows (``data-zoom-image``, ``data-large_image``, ...) or what the image links to; then
    the largest candidate of ``srcset``; then ``src`` or what stands for it until a script loads the image.
    """
    images = [element] if element.tag in ("img", "source") else element.xpath(".//img")
    found = [best for best in (_best(image) for image in images) if best]
    if not found and element.tag == "a" and is_file(href := element.get("href", "")):
        found = [(0, href)]
    return found


def link_around(element: Element) -> Element | None:
    """The link that ``element`` stands in."""
    return next((parent for parent in above(element) if parent.tag == "a"), None)


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
    return (2, full_size(plain)) if plain else None


def _filled_in(url: str, image: Element) -> str:
    """``url``, a template of lazy loaders filled in with the largest of its widths; empty where it cannot be."""
    template = url.replace("%7Bwidth%7D", "{width}")
    if "{" not in template:
        return url
    widths = [int(number) for number in WIDTH.findall(image.get("data-widths", "")[:MAX_SRCSET])]
    filled = template.replace("{width}", str(max(widths, default=0)))
    return filled if widths and "{" not in filled else ""


def _largest(image: Element) -> str | None:
    """The largest candidate of the ``srcset``s."""
    around = next((parent for parent in above(image) if parent.tag == "picture"), None)
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
    """Whether an attribute's ``value`` is the address of an image, rather than a number, a flag or a page."""
    value = value.strip() if len(value) <= MAX_URL else ""
    return " " not in value and "{" not in value and FILE.search(url_path(value)) is not None


def _is_small(image: Element) -> bool:
    sizes = [image.get(name, "") for name in ("width", "height")]
    return any(size.isascii() and size.isdigit() and len(size) < 6 and int(size) < SMALL_PX for size in sizes)
