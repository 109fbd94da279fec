"""Tests that need the system's Chromium."""

import os
import shutil

import pytest

from crawlers.http.chromium import NAMES

REQUIRED = "CHROMIUM_REQUIRED"  # set where its absence is a fault: in CI
needs_chromium = pytest.mark.skipif(
    not (any(map(shutil.which, NAMES)) or os.environ.get(REQUIRED)), reason=f"none of {', '.join(NAMES)} in PATH"
)
