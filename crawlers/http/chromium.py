"""Search for Chromium, without importing Scrapy or Playwright."""

import shutil
from importlib.util import find_spec

from atlas_model.core.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")  # in PATH


def find_browser(given: str | None) -> str:
    """The path of Chromium: ``given`` (a path or a name in PATH), else the first of `NAMES` in PATH.

    Raises:
        InputError: Chromium or the packages that control it are not installed.
    """
    if find_spec("scrapy_playwright") is None:
        raise InputError("a shop needs a browser, and scrapy-playwright is not installed: pip install 'atlas[browser]'")
    for name in (given,) if given else NAMES:
        if path := shutil.which(name):
            return path
    wanted = given or " or ".join(NAMES)
    raise InputError(
        f"a shop needs a browser: expected {wanted}, found no such program. Install Chromium (apt-get install "
        "chromium), or set crawl.browser to its path"
    )
