"""Comments of source files, by what they describe: fields of a class, columns of a schema, keys of a YAML file."""

import ast
import inspect
import io
import re
import tokenize
from functools import cache
from pathlib import Path

KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w.-]+):(?P<rest>.*)$")
COMMENT = re.compile(r"(?:^|\s)#\s?(?P<text>.*)$")


@cache
def _comments(path: Path) -> dict[int, tuple[str, bool]]:
    """Line -> its comment, and whether the comment has the line for itself."""
    found = {}
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = (token.string.lstrip("# ").strip(), alone)
    return found


def comment_of(path: Path, node: ast.stmt | ast.expr) -> str:
    """The comment of a node: on its last line, else the lines of comments directly above it."""
    comments = _comments(path)
    last, alone = comments.get(node.end_lineno or node.lineno, ("", True))
    if last and not alone:
        return last
    above: list[str] = []
    line = node.lineno - 1
    while line in comments and comments[line][1]:
        above.insert(0, comments[line][0])
        line -= 1
    return " ".join(above)


@cache
def field_comments(model: type) -> dict[str, str]:
    """Field -> its comment in the source of the class ``model``."""
    path = Path(inspect.getsourcefile(model) or "")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == model.__name__:
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            return {each.target.id: comment_of(path, each) for each in fields if isinstance(each.target, ast.Name)}
    return {}


def yaml_comments(path: Path) -> dict[str, str]:
    """Dotted key -> its comment: on the line of the key, and on the lines below that have nothing else."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    last = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if (comment := COMMENT.search(line)) and not line[: comment.start()].strip():
            if last and line.startswith(" "):
                found[last] = f"{found.get(last, '')} {comment['text']}".strip()
            continue
        key = KEY.match(line)
        if key is None:
            continue
        indent = len(key["indent"])
        parents = [(depth, name) for depth, name in parents if depth < indent] + [(indent, key["key"])]
        last = ".".join(name for _, name in parents)
        if comment := COMMENT.search(_without_texts(key["rest"])):
            found[last] = comment["text"]
    return found


def _without_texts(rest: str) -> str:
    """``rest`` of a YAML line with quoted texts blanked, because they may contain ``#``."""
    return re.sub(r"\"[^\"]*\"|'[^']*'", lambda text: "x" * len(text[0]), rest)
