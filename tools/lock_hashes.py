"""The SHA-256 of every file that a lock accepts, from the indexes that pip is configured with.

`pip install --require-hashes` refuses a file with another hash. A pin accepts several: the wheels of all supported
Pythons and platforms, and each build of torch (``+cpu`` and the ordinary one) that an index of this machine has. Where
an index offers only builds that a lock does not have, pip takes the ordinary one from the other index.

Knows nothing of resolving (`tools.lock`).
"""

import ast
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import requests
from lxml import html
from packaging.tags import Tag
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"  # PEP 691, else PEP 503
TIMEOUT_S = 60
DEFAULT_INDEX = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
# Platforms for which torch has wheels and Atlas runs.
PLATFORM = re.compile(r"any|(many)?linux\w*_(x86_64|aarch64)|macosx_\d+_\d+_(arm64|universal2)")
INTERPRETER = re.compile(r"(py|cp)3(\d*)|py2\.py3")
LINE = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^;\s\\]+)(?P<rest>[^\\\n]*)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")

File = tuple[str, str]  # its name, and its SHA-256


class HashError(Exception):
    """An index does not answer, or has no file for a pin."""


def pip_settings() -> dict[str, list[str]]:
    """``index-url``, ``extra-index-url`` and ``find-links`` of pip, from its files and the environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^[\w:]*\.([\w-]+)=(.*)$", said, flags=re.MULTILINE):
        found.setdefault(key, []).extend(ast.literal_eval(value).split())
    if not found.get("index-url"):
        default = subprocess.run([sys.executable, "-c", DEFAULT_INDEX], capture_output=True, text=True, check=True)
        found["index-url"] = [default.stdout.strip()]
    return found


def on_index(index: str, name: str) -> Iterator[File]:
    """The files of a package on an index; none if the index does not have it.

    Raises:
        HashError: the index does not answer.
    """
    url = f"{index.rstrip('/')}/{name}/"
    where = f"{name}: the package index {urlsplit(url).hostname}"  # without a password that the URL may have
    try:
        answer = requests.get(url, headers={"Accept": ACCEPT}, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise HashError(f"{where} cannot be reached ({type(error).__name__}): check the network") from None
    if answer.status_code == 404:
        return
    if not answer.ok:
        raise HashError(f"{where} answered {answer.status_code}, expected 200")
    if "json" in answer.headers.get("Content-Type", ""):
        for file in answer.json()["files"]:
            yield file["filename"], file["hashes"].get("sha256", "")
        return
    for link in html.fromstring(answer.content).iter("a"):
        address, fragment = urldefrag(urljoin(answer.url, link.get("href", "")))
        kind, _, digest = fragment.partition("=")
        yield unquote(address.rsplit("/", 1)[-1]), digest if kind == "sha256" else ""


def in_folder(folder: Path) -> Iterator[File]:
    """The wheels in a folder of ``find-links``."""
    for file in sorted(folder.glob("*.whl")):
        with file.open("rb") as opened:
            yield file.name, hashlib.file_digest(opened, "sha256").hexdigest()


def fits(tag: Tag, pythons: list[str]) -> bool:
    """Whether a supported Python on a supported platform can install a wheel with this tag."""
    found = INTERPRETER.fullmatch(tag.interpreter)
    if not found or not PLATFORM.fullmatch(tag.platform):
        return False
    kind, minor = found[1] or "py", int(found[2] or 0)
    newest = int(pythons[-1].removeprefix("3."))
    if kind == "py" or tag.abi == "abi3":
        return minor <= newest
    return f"3.{minor}" in pythons and tag.abi in (f"cp3{minor}", "none")


def accepted(file: str, name: str, version: str, pythons: list[str], source: bool) -> bool:
    """Whether a file belongs to a pin.

    Args:
        file: name of the file.
        name: name of the package, normalized.
        version: version of the pin, without a local part; files of any local version belong to it.
        pythons: all supported versions, sorted.
        source: whether the pin is published as source only.
    """
    try:
        if source:
            package, of_file = parse_sdist_filename(file)
        else:
            package, of_file, _, tags = parse_wheel_filename(file)
            if not any(fits(tag, pythons) for tag in tags):
                return False
    except (InvalidSdistFilename, InvalidWheelFilename):
        return False  # other kinds of files, and names from before the rules
    return package == name and Version(of_file.public) == Version(version)


def stored(text: str) -> dict[tuple[str, str], set[str]]:
    """The hashes in a lock, by name and version."""
    starts = [*LINE.finditer(text)]
    ends = [*(each.start() for each in starts[1:]), len(text)]
    return {
        (each["name"], each["version"]): set(HASH.findall(text[each.start() : end]))
        for each, end in zip(starts, ends, strict=True)
    }


class Hashes:
    """Adds the hashes to the lines of locks; asks for each package once.

    Args:
        pythons: all supported versions, sorted.
        before: hashes of the current locks. They are kept: this machine may not have the index of another build.
    """

    def __init__(self, pythons: list[str], before: dict[tuple[str, str], set[str]]) -> None:
        settings = pip_settings()
        self._pythons, self._before = pythons, before
        indexes = settings["index-url"] + settings.get("extra-index-url", [])
        self._indexes = [index for index in dict.fromkeys(indexes) if index.startswith("http")]
        folders = [Path(folder) for folder in dict.fromkeys(settings.get("find-links", [])) if Path(folder).is_dir()]
        self._files = [file for folder in folders for file in in_folder(folder)]

    def of(self, name: str, version: str, source: bool) -> list[str]:
        """The hashes of a pin, sorted.

        Raises:
            HashError: an index does not answer, or no file belongs to the pin.
        """
        files = [*self._files, *(file for index in self._indexes for file in on_index(index, canonicalize_name(name)))]
        name = canonicalize_name(name)
        found = {digest for file, digest in files if digest and accepted(file, name, version, self._pythons, source)}
        if not found:
            raise HashError(f"{name}=={version}: no index has a file with a SHA-256 for {', '.join(self._pythons)}")
        return sorted(found | self._before.get((name, version), set()))

    def added_to(self, lines: list[str], sources: dict[str, str]) -> list[str]:
        """The lines of a lock, each pin followed by its hashes.

        Args:
            lines: lines as `tools.lock.lines` makes them.
            sources: packages that are published as source only.
        """
        written = []
        for line in lines:
            written.append(line)
            if pin := LINE.match(line):
                hashes = self.of(pin["name"], pin["version"], pin["name"] in sources)
                pieces = [line.rstrip("\n"), *(f"    --hash=sha256:{digest}" for digest in hashes)]
                written[-1] = " \\\n".join(pieces) + "\n"
        return written
