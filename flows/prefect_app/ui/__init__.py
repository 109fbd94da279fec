"""What Prefect's UI shows of a run. Knows nothing of the order of the tasks.

`artifacts` and `figures` make the artifacts of a stage, `summary` that of a run. `reporter` sends the progress of a
stage, `log_relay` turns its output into log records, and `run_log` removes lines that repeat others. `run_names` and
`run_page` set the name, the tags and the events of a run. `outbox` sends all that a run shows, and `engine` makes
Prefect's own engine use it: a server that does not answer neither stops nor delays a run.
"""
