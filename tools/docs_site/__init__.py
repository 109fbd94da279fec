"""Builds the documentation site: ``python -m tools.docs_site`` (``make docs``).

- `pages`: copies the Markdown pages into a source folder for Sphinx, with links as the site needs them
- `navigation`: the table of contents, from the links of the index pages
- `reference`: the generated parts of the reference pages
- `params_reference`, `cli_reference`, `schema_reference`, `api_reference`, `snippet_reference`: one generator each
- `comments`: comments of Python and YAML source, by key
- `markdown`: text that is safe inside Markdown

The pages themselves are ordinary Markdown that reads well on a code host. Nothing that is generated is committed.
"""
