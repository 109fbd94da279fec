"""What the pages of Atlas share: style, templates, access rules, the server."""
