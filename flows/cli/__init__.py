"""The `atlas` command: `main` parses the `arguments`, whose modules call those of the subcommands.

A subcommand has a module of its name here, if it has no package of its own. `outputs` has what they share.
"""
