"""Models and accepted runs: `promote`, the `champion` and its versions, `model_folders`, git tags (`versions`)."""
