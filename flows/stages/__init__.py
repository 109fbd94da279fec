"""One module per DVC stage: parameters in, files out.

A stage module holds ``run(params: Params) -> None`` and ends with ``if __name__ == "__main__": main(run)``. It
knows where its files are (`flows.stages.paths`) and nothing of how the work is done (`crawlers`, `atlas_model`)
or of who calls it. No Prefect here: a bare `dvc repro` starts each stage in tenths of a second.
"""
