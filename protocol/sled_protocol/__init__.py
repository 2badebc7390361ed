"""The contract between devices and verifiers: messages, limits and codecs. Knows no model and no framework."""
