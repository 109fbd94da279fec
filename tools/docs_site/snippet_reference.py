"""The list of the snippets in the pages, and how each is checked."""

from itertools import groupby

from tools.docs_site.markdown import code, plain, table
from tools.snippets import all_checked


def snippet_reference() -> str:
    """Markdown: a heading and a table per page."""
    parts = []
    for page, checked in groupby(all_checked(), key=lambda each: each.snippet.page):
        rows = [[str(each.snippet.line), code(each.snippet.title), plain(each.how)] for each in checked]
        parts.append(f"## {page}\n\n{table(('line', 'snippet', 'how it is checked'), rows)}")
    return "\n".join(parts)
