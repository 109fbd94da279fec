"""Every command and Python example in the pages is executed, or tools/snippets.yaml says by which test, or why not.

The snippets of a page run in its order, in one small project: a folder of images with a table, as in the tutorial,
whose own commands set it up. They run in forks of a process that has imported everything
(tests/support/warm_python.py).
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from atlas_model.core.errors import InputError
from crawlers.shop.process import running_shop
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT
from tests.support.warm_python import PROJECT, install
from tools.snippets import Checked, all_checked, load_rules, rule_of, snippets_of

CHECKED = all_checked()
BY_PAGE = {page: list(checked) for page, checked in groupby(CHECKED, key=lambda each: each.snippet.page)}
FIRST = "docs/tutorials/your-folder.md"  # sets up the project
HERE = [page for page in BY_PAGE if any(each.runs_here for each in BY_PAGE[page])]
ORDER = sorted(HERE, key=lambda page: page != FIRST)
KINDS = {0: ("T-shirt", "Clothing"), 1: ("Trousers", "Clothing"), 7: ("Sneaker", "Footwear"), 8: ("Bag", "Bags")}
COPIES = {  # other names of images that the snippets use
    "t-shirt-00.jpg": ("some.jpg", "shirt.jpg", "front.jpg", "folder/a.jpg"),
    "t-shirt-01.jpg": ("back.jpg", "folder/b.jpg"),
    "t-shirt-02.jpg": ("label.jpg",),
}
EACH = 12  # products of a category
TIMEOUT_S = 120
PAGE = """# Page

    .venv/bin/atlas check   # a comment
    dvc repro

Data:

    a,b
    1,2

```yaml
atlas: 1
```

1. A list:

   ```bash
   # only a comment
   cat > a.yaml <<'END'
   # kept: 1
   END
   make run \\
     PYTHON=x
   ```

```python
print(1)

print(2)
```
"""


def test_rules_match_snippets_and_name_tests_that_exist() -> None:
    rules = load_rules()
    used = [rule_of(each.snippet, rules) for each in CHECKED]
    assert [rule for rule in rules if rule not in used and not rule.prepared] == [], "rules that match nothing"
    for rule in filter(None, used):
        if rule.tested_by:
            file, _, name = rule.tested_by.partition("::")
            assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), rule


def test_finds_commands_and_examples_but_no_data(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    found = [(each.line, each.kind, each.text) for each in snippets_of(page, tmp_path)]
    assert found == [
        (3, "command", ".venv/bin/atlas check"),
        (4, "command", "dvc repro"),
        (19, "command", "cat > a.yaml <<'END'\n# kept: 1\nEND"),
        (22, "command", "make run \\\n  PYTHON=x"),
        (27, "python", "print(1)\n\nprint(2)"),
    ]
    page.write_text("```perl\nprint 1\n```\n")
    with pytest.raises(InputError, match=r"page.md:2: expected a block of bash, python or data .*, got perl"):
        list(snippets_of(page, tmp_path))


class Project:
    """A folder with a copy of the project, and a shell in it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "PATH": f"{folder / '.venv/bin'}{os.pathsep}{environment['PATH']}"}

    def run(self, program: str) -> None:
        """Run a command, which must succeed."""
        done = subprocess.run(
            ["/bin/sh", "-c", program],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{program}\n{done.stdout}"

    def check(self, checked: Checked) -> None:
        """Run a snippet as its rule says."""
        program = checked.program
        if checked.snippet.kind == "python":
            (self.folder / "example.py").write_text(program, encoding="utf-8")
            program = "python example.py"
        self.run(program)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Path], git_env: dict[str, str]
) -> Iterator[Project]:
    folder = copy_project(tmp_path_factory.mktemp("snippets") / "project")
    address = folder.parent / "socket"
    install(folder / ".venv/bin", address)
    environment = {**git_env, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.warm_python", str(address), *PROJECT, str(os.getpid())]
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server,
        running_shop() as hosts,
    ):
        prepare(folder, hosts["shop-a.demo.test"])
        commit_all(folder, git_env)
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        yield Project(folder, environment)
        server.kill()


def prepare(folder: Path, shop: tuple[str, int]) -> None:
    """Write the images and tables that the snippets name, and make the demo shop known as http://shop-a.test."""
    rows = pq.read_table(ROOT / "data/sample.parquet").to_pylist()
    table = ["image,category,title"]
    for label, (kind, category) in KINDS.items():
        for number, row in enumerate([row for row in rows if row["label"] == label][:EACH]):
            image = Image.frombytes("L", (28, 28), row["pixels"]).resize((64, 64))
            name = f"{kind.lower()}-{number:02}.jpg"
            for path in (Path("photos", name), *(Path(other) for other in COPIES.get(name, ()))):
                (folder / path).parent.mkdir(exist_ok=True)
                image.save(folder / path, quality=90)
            table.append(f"{name},{category} > {kind},Plain {kind.lower()} {number}")
    (folder / "products.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    (folder / "old.txt").write_text("1 - Clothing\n2 - Clothing > Shirts\n", encoding="utf-8")
    (folder / "new.txt").write_text("1 - Clothing\n2 - Clothing > Tops\n", encoding="utf-8")
    url = "http://shop-a.test/media/{}-1.jpg"
    labelled = [
        {"filename": f"{number}.jpg", "image_url": url.format(number), "label": label, "title": "Shirt"}
        for number, label in ((10032, "normal"), (10076, "zoomed"))
    ]
    (folder / "labelled.json").write_text(json.dumps(labelled), encoding="utf-8")
    params = folder / "params.yaml"
    connect = f'connect: {{shop-a.test: "{shop[0]}:{shop[1]}"}}'
    params.write_text(params.read_text(encoding="utf-8").replace("connect: {}", connect, 1), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", ORDER)
def test_snippets_run(project: Project, page: str) -> None:
    for checked in BY_PAGE[page]:
        if checked.runs_here:
            project.check(checked)
    project.run("git add -A && git commit -q --allow-empty -m page")  # `atlas init` overwrites no uncommitted file
