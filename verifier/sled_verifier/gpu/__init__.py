"""What the GPUs of this process are doing, for metrics. Optional: without a library or a GPU there is nothing to read."""
