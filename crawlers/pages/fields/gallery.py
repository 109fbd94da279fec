"""Merging of a product's images from structured data and from the page's gallery.

The result has each view once, in the gallery's order and in the largest version that any source names.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crawlers.pages.fields.images import image_key, is_decoration, is_placeholder, width_of

OPEN_GRAPH = "opengraph"


class SourceImages(NamedTuple):
    """The image URLs of one source, in its order."""

    source: str
    urls: list[str]  # absolute


def merge_images(structured: Sequence[SourceImages], gallery: SourceImages) -> tuple[list[str], list[str]]:
    """Merge the images of all sources.

    Args:
        structured: images of each structured data format.
        gallery: images of the page's gallery.

    Returns:
        The URLs, and the names of the sources that they come from.
    """
    shown = _views(gallery.urls)
    structured_views = {found.source: _views(found.urls) for found in structured}
    sharing = [source for source, views in structured_views.items() if views.keys() & shown.keys()]
    most = max(structured_views, key=lambda source: len(structured_views[source]), default=None)
    if sharing:  # a shared view shows that the gallery belongs to this product
        order, first = dict.fromkeys(shown), gallery.source
        for source in sharing:
            order |= dict.fromkeys(structured_views[source])
    elif (
        most
        and structured_views[most]
        and (len(structured_views[most]) >= len(shown) and not (most == OPEN_GRAPH and shown))
    ):
        order, first = dict.fromkeys(structured_views[most]), most
    elif shown:
        order, first = dict.fromkeys(shown), gallery.source
    else:
        return [], []
    best: dict[str, tuple[float, str, str]] = {}
    for source, views in (
        (first, shown if first == gallery.source else structured_views[first]),
        *structured_views.items(),
        (gallery.source, shown),
    ):
        for key, url in views.items():
            if key in order and (key not in best or width_of(url) > best[key][0]):
                best[key] = width_of(url), url, source
    chosen = [best[key] for key in order]
    return [url for _, url, _ in chosen], list(dict.fromkeys(source for _, _, source in chosen))


def _views(urls: Iterable[str]) -> dict[str, str]:
    """Key of each image (`image_key`) -> the URL of its largest version."""
    views: dict[str, str] = {}
    for url in urls:
        if is_placeholder(url) or is_decoration(url):
            continue
        key = image_key(url)
        if key not in views or width_of(url) > width_of(views[key]):
            views[key] = url
    return views
