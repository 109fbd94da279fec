"""The Prefect flow, its deployment, and the reports to Prefect's UI.

`flow` has one task per DVC stage, `steps` the tasks before and after, `failures` the messages of failed ones.
`artifacts` and `figures` create artifacts of a stage, `reporter` sends its progress, `log_relay` turns its output into
log records. `run_names`, `run_page`, `run_log` and `summary` make what the UI shows of a run: its name, tags and
events, its log, its result. `shell_run` reports `dvc repro` in a shell as a flow run. `up`, `server`, `deployment`,
`missed_schedules`: `make up`. `cluster`: Dask and Ray.
"""
