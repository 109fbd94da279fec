"""Writes .dvc/plots.html, the template of `dvc plots show`: a page that needs no network.

DVC's own template loads Vega from a CDN. This one contains it: the minified builds of `PACKAGES`, with their licences.
``python -m tools.plots_template`` needs npm and its registry, only to change a version.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TEMPLATE = Path(".dvc/plots.html")
PACKAGES = {"vega": "5.33.1", "vega-lite": "5.23.0", "vega-embed": "6.29.0"}  # the last that read DVC's Vega-Lite 5
# What the builds contain beside the packages of the same authors.
BUNDLED = """
vega: Copyright 2015-2023, University of Washington Interactive Data Lab (the licence of vega-embed); its build contains
d3-*, internmap: Copyright 2010-2023 Mike Bostock (ISC); topojson-client: Copyright 2012-2019 Mike Bostock (ISC);
delaunator: Copyright 2021 Mapbox (ISC); robust-predicates: Vladimir Agafonkin (Unlicense); semver: Copyright Isaac Z.
Schlueter and Contributors (ISC); fast-json-patch: Copyright 2013, 2014, 2020 Joachim Wester (MIT);
json-stringify-pretty-compact: Copyright 2014, 2016-2024 Simon Lydell, 2012-2019 Mihai Bazon (MIT); tslib: Copyright
Microsoft Corporation (0BSD).

ISC: Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby
granted, provided that the above copyright notice and this permission notice appear in all copies. THE SOFTWARE IS
PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES
OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR
CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF
CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS
SOFTWARE.

MIT: Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice
and this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS
PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
END = ("</script", "<\\/script")  # would end the element
# DVC replaces {plot_divs}. Vega compiles expressions, which needs 'unsafe-eval'. Its menu can save a plot as an image;
# the entry that opens a public editor is removed.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval';\
 style-src 'unsafe-inline'; img-src data: blob: file: 'self'">
{refresh_tag}
<title>Plots</title>
<!--
Written by tools/plots_template.py.
%(licences)s-->
%(scripts)s
<script>
{ const embed = window.vegaEmbed;
  window.vegaEmbed = (place, plot) =>
    embed(place, plot, {actions: {export: true, source: false, compiled: false, editor: false}}); }
</script>
<style>
body { margin: 1.5rem; font: 16px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; }
.plots { display: flex; flex-wrap: wrap; gap: 2.5rem; align-items: flex-start; }
img { max-width: 100%%; }
table { border-spacing: 15px; }
</style>
</head>
<body>
<main class="plots">
{plot_divs}
</main>
</body>
</html>
"""


def main() -> int:
    """Download the packages and write the template."""
    scripts, licences = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, version in PACKAGES.items():
            packed = f"{name}@{version}"
            done = subprocess.run(
                ["npm", "pack", "--silent", packed], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
            )
            with tarfile.open(Path(folder) / done.stdout.strip()) as package:
                script = _read(package, f"build/{name}.min.js")
                if "package/LICENSE" in package.getnames():  # vega's package has none; its licence is vega-embed's
                    licences.append(f"{packed}\n{_read(package, 'LICENSE')}\n")
            scripts.append(f"<script>\n{script.replace(*END)}\n</script>")
    TEMPLATE.write_text(
        PAGE % {"scripts": "\n".join(scripts), "licences": "\n".join([*licences, BUNDLED.lstrip()])}, encoding="utf-8"
    )
    return 0


def _read(package: tarfile.TarFile, path: str) -> str:
    handle = package.extractfile(f"package/{path}")
    assert handle is not None
    return handle.read().decode().strip()


if __name__ == "__main__":
    sys.exit(main())
