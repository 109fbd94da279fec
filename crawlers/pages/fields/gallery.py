"""All images of a product, from what the page says to machines and from its gallery together.

Each view once, the largest version of it that any source names, in the gallery's order. Knows no shop and no mark-up.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crawlers.pages.fields.images import is_decoration, is_placeholder, pixels_of, same_image

OPEN_GRAPH = "opengraph"


class Found(NamedTuple):
    """What one source names, in its order."""

    source: str
    urls: list[str]  # absolute


def merged(said: Sequence[Found], gallery: Found) -> tuple[list[str], list[str]]:
    """The images, and the sources that they come from.

    Args:
        said: to machines, one for each syntax.
        gallery: what the page shows as the product's images.
    """
    shown = _views(gallery.urls)
    spoken = {found.source: _views(found.urls) for found in said}
    sharing = [source for source, views in spoken.items() if views.keys() & shown.keys()]
    most = max(spoken, key=lambda source: len(spoken[source]), default=None)
    if sharing:  # the gallery is this product's, and its views are told apart rightly
        order, first = dict.fromkeys(shown), gallery.source
        for source in sharing:
            order |= dict.fromkeys(spoken[source])
    elif most and spoken[most] and (len(spoken[most]) >= len(shown) and not (most == OPEN_GRAPH and shown)):
        order, first = dict.fromkeys(spoken[most]), most
    elif shown:
        order, first = dict.fromkeys(shown), gallery.source
    else:
        return [], []
    best: dict[str, tuple[float, str, str]] = {}
    for source, views in (
        (first, shown if first == gallery.source else spoken[first]),
        *spoken.items(),
        (gallery.source, shown),
    ):
        for key, url in views.items():
            if key in order and (key not in best or pixels_of(url) > best[key][0]):
                best[key] = pixels_of(url), url, source
    chosen = [best[key] for key in order]
    return [url for _, url, _ in chosen], list(dict.fromkeys(source for _, _, source in chosen))


def _views(urls: Iterable[str]) -> dict[str, str]:
    """What is common to all sizes of an image -> the largest of them."""
    views: dict[str, str] = {}
    for url in urls:
        if is_placeholder(url) or is_decoration(url):
            continue
        key = same_image(url)
        if key not in views or pixels_of(url) > pixels_of(views[key]):
            views[key] = url
    return views
