"""Models and accepted runs.

`promote` compares models, `champion` stores the promoted ones, `model_folders` finds the model to predict with, and
`versions` commits and tags accepted runs in git.
"""
