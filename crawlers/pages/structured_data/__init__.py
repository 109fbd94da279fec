"""Structured data: parsers to schema.org nodes (`json_ld`, `microdata`), and readers of those (`structured`)."""
