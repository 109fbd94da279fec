"""The subcommands of `atlas`: a module has the arguments of some of them and the functions that run them.

These functions import the module of the work only when they are called, so that no subcommand waits for the imports of
the others.
"""
