"""The review page: people correct categories and close-up labels."""
