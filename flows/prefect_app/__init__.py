"""The Prefect flow and what serves it.

`flow` has one task per DVC stage; `steps` are the tasks around them. `artifacts`, `figures`: what the UI shows of a
stage. `reporter`: progress sent from a stage. `log_relay`: a stage's output as log records. `shell_run`: a shell's
`dvc repro` as a flow run. `up`, `server`, `deployment`, `missed_schedules`: `make up`. `cluster`: Dask and Ray.
"""
