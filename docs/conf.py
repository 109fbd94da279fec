"""Settings of Sphinx for the documentation site. ``make docs`` calls it on a copy of the pages (tools/docs_site)."""

import importlib
from importlib.metadata import version as version_of
from typing import Any

from docutils.nodes import Element
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "Atlas"
author = "the Atlas contributors"
copyright = author
version = release = version_of("atlas")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
root_doc = "index"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 6  # the anchors of a code host
myst_links_external_new_tab = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
default_role = "literal"  # docstrings write `name`
python_maximum_signature_line_length = 88

# Types of other libraries: the site loads nothing from elsewhere, their inventories included.
nitpick_ignore_regex = [(r"py:.*", r"(?!atlas_model\.api\.|crawlers\.api\.).*")]

smartquotes = False  # pages and help texts name options such as --input
highlight_language = "none"
html_theme = "furo"
html_title = f"Atlas {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}
suppress_warnings = ["config.cache"]

PUBLIC = {
    name: f"{module}.{name}"
    for module in ("atlas_model.api", "crawlers.api")
    for name in importlib.import_module(module).__all__
}


def public_reference(app: Sphinx, env: BuildEnvironment, node: Element, content: Element) -> Any:
    """Link the name of a public class where signatures have the module that defines it."""
    name = str(node.get("reftarget", "")).rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in PUBLIC or node["reftarget"] == PUBLIC[name]:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "class", PUBLIC[name], node, content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook above."""
    app.connect("missing-reference", public_reference)
    return {"parallel_read_safe": True}
