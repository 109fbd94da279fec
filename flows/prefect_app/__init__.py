"""The Prefect flow, its deployment, and the reports to Prefect's UI.

`flow` has one task per DVC stage, `steps` the tasks before and after, `failures` the messages of failed ones.
`connection` finds the server of a single run, or starts a `temporary_server`. `ui` has what the UI shows of a run.
`shell_run` reports `dvc repro` in a shell as a flow run. `up`, `server`, `deployment`, `missed_schedules`: `make up`.
`cluster`: Dask and Ray.
"""
