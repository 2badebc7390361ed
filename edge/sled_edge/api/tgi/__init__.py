"""The API of text-generation-inference: generate, streaming or not, and info."""
