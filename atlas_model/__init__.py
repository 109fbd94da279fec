"""What every stage reuses: data contracts, images, taxonomy, models, search, metrics. No web, no orchestration."""
