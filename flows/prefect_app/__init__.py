"""The Prefect flow, its deployment, and the reports to Prefect's UI.

`flow` has one task per DVC stage, `steps` the tasks before and after, `failures` the messages of failed ones. `ui` has
what the UI shows of a run. `shell_run` reports `dvc repro` in a shell as a flow run. `up`, `server`, `deployment`,
`missed_schedules`: `make up`. `cluster`: Dask and Ray.
"""
