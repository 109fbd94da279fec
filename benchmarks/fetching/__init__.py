"""Parts of `benchmarks.fetch`: images and their servers, the compared clients, and the measurement."""
