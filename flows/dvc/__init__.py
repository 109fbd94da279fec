"""DVC: `repo` is the one module that calls it; `worker` runs a stage; `pipeline_lock` and `stale_locks`."""
