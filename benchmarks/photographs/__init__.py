"""The benchmark on real product photographs: the whole pipeline, from a manifest of URLs to the evaluation.

`make benchmark NAME=photographs` runs it in a separate DVC project (`workspace`): a copy of this project with the
parameters of params.yaml beside this file. docs/photographs.md has the results.
"""
