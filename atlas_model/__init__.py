"""Code that the stages share: table schemas, images, taxonomy, models, search, metrics. No web, no orchestration."""
