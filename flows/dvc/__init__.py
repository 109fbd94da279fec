"""DVC: `repo` calls its API and its command; `worker` runs the stages of a flow in child processes.

`descriptions` reads those of the stages. `pipeline_lock` keeps flows and `dvc repro` apart. `stale_locks` removes locks
of processes that have ended, and `after_kill` mends what a killed DVC left; `ended_stages` has when each stage ended.
`verify` compares files with their hashes, `verify_work` work in progress with its checksums; `unread` tells why a file
cannot be read. `storage` and `run_cache` read what DVC has stored, for `flows.gc`.
"""
