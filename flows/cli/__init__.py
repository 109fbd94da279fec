"""The `atlas` command: `main` parses the arguments, `commands` calls the subcommands; each has a module."""
