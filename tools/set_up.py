"""Installs Atlas into .venv: ``python tools/set_up.py run`` the packages for a run, ``dev`` those for the tests too.

Runs on the Python from which .venv is created (chosen by ``tools/python.sh``), with the standard library alone. An
interrupted installation is resumed. pip takes no file whose hash is not in a lock. The exception: with ``TORCH_INDEX``
in the environment, torch and torchvision come from that index, such as PyTorch's of CPU builds, in the locked versions.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import Self

VENV = Path(".venv")
LOCKS = {"run": Path("requirements.lock"), "dev": Path("requirements-dev.lock")}
BUILD_LOCK, CUDA_LOCK = Path("requirements-build.lock"), Path("requirements-cuda.lock")
TORCH = ("torch", "torchvision")
STAMPS = {"run": VENV / ".installed", "dev": VENV / ".installed-dev"}
PARTS = {"run": "what a run needs", "dev": "what the tests need on top"}
# GB to download and on disk, measured on Linux x86-64; torch's CUDA build and its libraries apart.
SIZES = {"run": (0.5, 2.0), "dev": (0.3, 1.0)}
CUDA = (2.5, 3.9)
MINUTES = {"run": "3 to 10 minutes", "dev": "1 to 4 minutes"}
TERMINAL_S, LOG_S = 0.2, 15.0  # between two lines of progress
TICK_S = 1.0
NOT_COMPILED = r"[/\\]tests?[/\\]"  # the tests of packages, a fifth of their code
# Only what the locks name, and no build environment, into which pip would put packages that no lock names.
LOCKED = ("install", "--require-hashes", "--no-deps", "--no-build-isolation")
TORCH_BUILD = "import importlib.metadata; print(importlib.metadata.version('torch'))"
OFFLINE = re.compile(r"Retrying \(Retry|NewConnectionError|Max retries exceeded|Name or service not known")


class SetUpError(Exception):
    """The installation failed; the text has the reason and the remedy."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


class Progress:
    """One line with the progress of pip, from its output; on a terminal it is overwritten.

    pip prints nothing while it writes packages to disk, so a thread updates the line meanwhile.
    """

    def __init__(self, packages: int) -> None:
        self._packages, self._seen = packages, 0
        self._name, self._of_name, self._mb = "", "", 0.0
        self._installing, self._before, self._said_s = False, 0, 0.0
        self._terminal = sys.stderr.isatty()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def read(self, line: str) -> None:
        """Process a line of pip's output."""
        if found := re.match(r"(?:Collecting|Processing|Requirement already satisfied:) (\S+)", line):
            self._seen += 1
            file = found[1].rsplit("/", 1)[-1]
            self._name, self._of_name = re.split(r"[=<>!~\[]|-\d", file)[0], ""
        elif found := re.match(r"\s+Downloading \S+ \(([\d.]+) ([kMG]B)\)", line):
            self._mb += float(found[1]) * {"kB": 0.001, "MB": 1.0, "GB": 1000.0}[found[2]]
        elif found := re.match(r"Progress (\d+) of (\d+)", line):
            self._of_name = f", {int(found[1]) / 1e6:.0f} of {int(found[2]) / 1e6:.0f} MB"
        elif line.startswith("Installing collected packages"):
            self._packages, self._installing = line.count(",") + 1, True
            self._before = _written()
        self.say()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_S):
            self.say()

    def say(self) -> None:
        """Write the line, unless the last one is recent."""
        now = time.monotonic()
        if now - self._said_s < (TERMINAL_S if self._terminal else LOG_S):
            return
        self._said_s = now
        if self._installing:
            text = f"  written to disk: {_written() - self._before} of {self._packages} packages"
        else:
            text = (
                f"  package {self._seen} of about {self._packages}: {self._name or 'asking the index'}{self._of_name}"
            )
            text += f" ({self._mb:.0f} MB to download so far)" if self._mb else ""
        sys.stderr.write(f"\r\033[K{text[:100]}" if self._terminal else f"{text}\n")
        sys.stderr.flush()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._terminal:
            sys.stderr.write("\r\033[K")


def _written() -> int:
    return sum(1 for _ in VENV.glob("lib/python*/site-packages/*.dist-info"))


def say(text: str) -> None:
    """Write a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def pins(lock: Path) -> dict[str, str]:
    """Versions by name, without regard to markers."""
    found = re.findall(r"^([\w.-]+)==([^;\s\\]+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(found)


def pip(*arguments: str, progress: Progress | None = None) -> None:
    """Run the pip of .venv.

    Raises:
        SetUpError: pip failed. One line if a package has no wheel for this Python or the index cannot be reached.
    """
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1"}
    command = [str(VENV / "bin/python"), "-m", "pip", *arguments]
    last: deque[str] = deque(maxlen=200)
    with (
        progress or nullcontext(),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        ) as child,
    ):
        assert child.stdout
        for line in child.stdout:
            if not line.startswith("Progress "):
                last.append(line)
            if progress:
                progress.read(line)
    if child.returncode:
        raise fault("".join(last))


def fault(output: str) -> SetUpError:
    """The error for a failed pip.

    Args:
        output: the last lines of its output.
    """
    this = f"Python {platform.python_version()} on {platform.system()} {platform.machine()} {platform.libc_ver()[0]}"
    if OFFLINE.search(output):
        return SetUpError(
            "the package index cannot be reached: check the network or the settings of pip, then run this again"
        )
    if found := re.search(r"No matching distribution found for (\S+)", output):
        return SetUpError(
            f"{found[1]} has no wheel for {this.strip()}: use another Python: make PYTHON=/path/to/python3 ...", code=2
        )
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in output:
        found = re.search(r"^\s*(\S+==\S+) from ", output, flags=re.MULTILINE)
        return SetUpError(
            f"{found[1] if found else 'a package'}: expected the file that the lock names, got one with another SHA-256"
            " from the package index, so nothing was installed. See where pip takes packages from: pip config list. If"
            " you have changed a lock by hand, run `make lock`"
        )
    if "No space left on device" in output:
        return SetUpError("the disk is full: free some space, then run this again")
    errors = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()
    return SetUpError("pip failed:\n" + "\n".join(errors[-20:]))


def compile_packages() -> None:
    """Compile the installed packages to byte code on all cores; pip does so on one, for most of its time.

    A file that does not compile, such as one for another version of Python, is left as it is.
    """
    say("  compiling the packages to byte code")
    folders = [str(folder) for folder in VENV.glob("lib/python*/site-packages")]
    command = [str(VENV / "bin/python"), "-W", "ignore", "-m", "compileall", "-qq", "-j", "0", "-x", NOT_COMPILED]
    subprocess.run([*command, *folders], stdout=subprocess.DEVNULL, check=False)


def make_venv() -> bool:
    """Create .venv with the running Python, unless .venv has that version.

    Returns:
        Whether it was created.

    Raises:
        SetUpError: the module venv fails.
    """
    python = VENV / "bin/python"
    version = platform.python_version()
    probe = [str(python), "-c", "import pip, platform; print(platform.python_version())"]
    there = subprocess.run(probe, capture_output=True, text=True, check=False).stdout.strip() if python.exists() else ""
    if there == version:
        return False
    if VENV.exists():
        say(f".venv has {f'Python {there}' if there else 'no Python that works'}; it is created again with {version}")
    base = str(Path(sys.executable).resolve()) if sys.prefix != sys.base_prefix else sys.executable
    done = subprocess.run(
        [base, "-m", "venv", "--clear", str(VENV)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SetUpError(f"{sys.executable} cannot create a venv:\n{done.stdout.strip()}", code=2)
    return True


def announce(part: str, packages: int) -> None:
    """Print what is installed, its size and the expected time.

    Raises:
        SetUpError: there is not enough free disk space.
    """
    where = f"Python {platform.python_version()} ({sys.executable})"
    download, disk = SIZES[part]
    say(f"Installing {PARTS[part]} into {VENV} with {where}: {packages} packages, about {MINUTES[part]}.")
    size = f"  {download} GB to download, {disk} GB on disk"
    if part == "run" and sys.platform == "linux":
        size += (
            f"; {download + CUDA[0]:.1f} and {disk + CUDA[1]:.1f} GB with torch's CUDA build, which pip takes unless it"
            " is given the CPU builds (CONTRIBUTING.md, Set-up)"
        )
    say(size + ".")
    free = shutil.disk_usage(VENV).free / 1e9
    if free < disk:
        raise SetUpError(f"needs {disk} GB on disk, and {free:.1f} GB are free: free some space", code=2)


def install(lock: Path, torch: str = "") -> None:
    """Install a lock, with a line of progress.

    Args:
        lock: the file.
        torch: the build of torch, as from `locked_build`; empty: pip chooses.

    Raises:
        SetUpError: see `pip`.
    """
    with tempfile.TemporaryDirectory() as folder:
        if torch:
            text = re.sub(r"^torch==[^;\s\\]+", f"torch=={torch}", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
            lock = Path(folder, lock.name)
            lock.write_text(text, encoding="utf-8")
        bar = "raw" if "pip" in pins(BUILD_LOCK) else "off"  # lines that can be parsed; older versions lack them
        options = ("--no-compile", "--progress-bar", bar, "--requirement", str(lock))
        pip(*LOCKED, *options, progress=Progress(len(pins(lock))))


def locked_build(lock: Path) -> str:
    """The build of torch that pip takes on this machine, such as 2.13.0+cpu, if the lock has its hash; else empty.

    With hashes alone pip would prefer another build: it takes a file whose hash the index states to one in a folder of
    ``find-links``.

    Raises:
        SetUpError: see `pip`.
    """
    version = pins(lock).get("torch")
    if version is None or os.environ.get("TORCH_INDEX"):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        # fast-deps reads the metadata of a wheel without its 0.5 GB.
        options = ("--dry-run", "--ignore-installed", "--no-deps", "--use-feature=fast-deps", "--report", str(report))
        pip("install", *options, f"torch=={version}")
        (found,) = json.loads(report.read_text(encoding="utf-8"))["install"]
    build = str(found["metadata"]["version"])
    if "+" not in build:
        return build
    if found["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "-") in lock.read_text("utf-8"):
        return build
    say(
        f"  {lock} has no hash of torch {build}: torch {version} is installed. To take it, see TORCH_INDEX in"
        " CONTRIBUTING.md"
    )
    return version


def needs_cuda() -> bool:
    """Whether the installed torch is the ordinary build for Linux, which requires the CUDA packages."""
    command = [str(VENV / "bin/python"), "-c", TORCH_BUILD]
    version = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return sys.platform == "linux" and bool(version) and "+" not in version


def set_up(part: str) -> None:
    """Install a part.

    Raises:
        SetUpError: see `pip`.
    """
    lock, stamp = LOCKS[part], STAMPS[part]
    made = make_venv()
    changed = max(path.stat().st_mtime for path in (lock, BUILD_LOCK, CUDA_LOCK, Path("pyproject.toml")))
    if not made and stamp.exists() and stamp.stat().st_mtime >= changed:
        stamp.touch()  # so that the stamp of `dev` is newer than that of `run`, for make
        return
    locked = pins(lock)
    begun = time.monotonic()
    announce(part, len(locked))
    pip(*LOCKED, "--requirement", str(BUILD_LOCK))
    if part == "run" and (index := os.environ.get("TORCH_INDEX")):
        pip("install", "--no-deps", "--index-url", index, *(f"{name}=={locked[name]}" for name in TORCH))
    install(lock, locked_build(lock) if part == "run" else "")
    if part == "run" and needs_cuda():
        say("  the CUDA packages of this torch build; TORCH_INDEX chooses another (CONTRIBUTING.md, Set-up)")
        install(CUDA_LOCK)
    compile_packages()
    if part == "run":
        pip("install", "--no-deps", "--no-build-isolation", "--editable", ".")
    stamp.touch()
    say(f"Installed in {time.monotonic() - begun:.0f} s.")


def main(part: str) -> int:
    """Install a part, and return the exit code."""
    try:
        set_up(part)
    except SetUpError as error:
        say(f"Atlas: {error}")
        return error.code
    except KeyboardInterrupt:
        say("Interrupted; the next make resumes.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
