"""What every stage reuses: data contracts, pictures, taxonomy, models, search, metrics. No web, no orchestration."""
