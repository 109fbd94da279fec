"""The `atlas` command: `main` parses arguments, one module a subcommand does the work."""
