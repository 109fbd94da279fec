#!/bin/sh
# Print the Python that .venv is made from: $PYTHON; else the one that .venv has; else the newest supported one in PATH.
# Where there is none, one line says what was found and what to do, and the exit code is 2.
set -u
oldest=$(sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\..*/\1/p' pyproject.toml)
after=$(sed -n 's/^requires-python = ">=3\.[0-9]*,<3\.\([0-9]*\)".*/\1/p' pyproject.toml)
needed="Python 3.$oldest to 3.$((after - 1))"
found=

# Asked, not read from the name: shims of pyenv and the like are in PATH even where they lead nowhere.
version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

supported() { # a version, as 3.12
    case $1 in 3.*) [ "${1#3.}" -ge "$oldest" ] && [ "${1#3.}" -lt "$after" ] ;; *) return 1 ;; esac
}

# Debian and Ubuntu have these in a package of their own.
makes_venvs() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

refuse() {
    echo "Atlas needs $needed: $1" >&2
    exit 2
}

if [ -n "${PYTHON:-}" ]; then
    number=$(version "$PYTHON") || refuse "PYTHON=$PYTHON is no Python that runs"
    supported "$number" || refuse "PYTHON=$PYTHON is Python $number"
    makes_venvs "$PYTHON" || refuse "PYTHON=$PYTHON lacks the module venv (Debian, Ubuntu: apt install python$number-venv)"
    command -v "$PYTHON"
    exit
fi

if .venv/bin/python -m pip --version >/dev/null 2>&1 && supported "$(version .venv/bin/python)"; then
    echo .venv/bin/python
    exit
fi

minor=$((after - 1))
names=
while [ "$minor" -ge "$oldest" ]; do
    names="$names python3.$minor"
    minor=$((minor - 1))
done
for name in $names python3 python; do
    number=$(version "$name") || continue
    if ! supported "$number"; then
        found="$found, $name is Python $number"
    elif ! makes_venvs "$name"; then
        found="$found, $name lacks the module venv (Debian, Ubuntu: apt install python$number-venv)"
    else
        command -v "$name"
        exit
    fi
done
refuse "${found:+${found#, }; }install one with its venv module, or name one: make PYTHON=/path/to/python3.$((after - 1)) ..."
