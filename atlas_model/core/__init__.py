"""Shared basics: parameters, errors, files, progress, devices. Imports no other sub-package.

`params` (`param_sections`, `encoder_names`): params.yaml as frozen, validated models.
`yaml_files`: YAML as DVC reads it. `errors`: the exception tree. `machine`: errors of the disk, the memory and the
limits of a process. `files`: atomic writes and locks. `checksums`, `row_checksums`: of files, and of rows in SQLite.
`checkpoint`: a model as safetensors and JSON. `progress`: progress bars and log lines. `processes`, `threads`: child
processes and signals, and pools of threads. `device`: CPU or CUDA. `extras`: optional packages.
"""
