"""Shared basics: parameters, errors, files, progress, devices. Imports no other sub-package.

`params` (`param_types`, `encoder_names`): params.yaml as frozen, validated models. `yaml_files`: YAML as DVC reads it.
`errors`: the exception tree. `files`: atomic writes and locks. `checkpoint`: a model as safetensors and JSON.
`progress`: progress bars and log lines. `processes`: child processes and signals. `device`: CPU or CUDA. `extras`:
optional packages.
"""
