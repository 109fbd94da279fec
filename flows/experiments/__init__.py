"""`sweep` runs a grid over params.yaml as a Prefect flow; `experiment` runs one point of it as a DVC experiment."""
