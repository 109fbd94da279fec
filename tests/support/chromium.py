"""Skipping of tests that need the system's Chromium."""

import os
import shutil

import pytest

from crawlers.http.chromium import NAMES

REQUIRED = "CHROMIUM_REQUIRED"  # set in CI, where a missing Chromium is an error
needs_chromium = pytest.mark.skipif(
    not (any(map(shutil.which, NAMES)) or os.environ.get(REQUIRED)), reason=f"none of {', '.join(NAMES)} in PATH"
)
