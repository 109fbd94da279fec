"""What every other sub-package uses: parameters, errors, files, progress, devices. Imports none of them.

`params` (`param_types`, `encoder_names`): params.yaml as frozen, validated models. `yaml_files`: YAML as DVC reads it.
`errors`: the exception tree. `files`: atomic writes. `checkpoint`: a model as safetensors and JSON. `progress`: bars
and log lines. `processes`: child processes and signals. `device`: CPU or CUDA. `extras`: optional packages.
"""
