"""`sweep` runs a grid over params.yaml as a Prefect flow; `experiment` runs one combination as a DVC experiment."""
