"""The parts of `benchmarks.fetch`: images and their servers, the clients that are compared, what they took."""
