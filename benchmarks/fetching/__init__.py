"""The parts of `benchmarks.fetch`: pictures and their servers, the clients that are compared, what they took."""
