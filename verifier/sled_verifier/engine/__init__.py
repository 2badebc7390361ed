"""Engines: how a ragged batch of tokens becomes target logits. One module per engine, imported only when asked for."""
