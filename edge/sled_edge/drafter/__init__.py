"""Drafters: ways for a device to guess the target's next tokens. One module per kind, imported only when asked for."""
