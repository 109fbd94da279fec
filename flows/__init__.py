"""When and in what order: DVC stages, the Prefect flow, the command line."""
