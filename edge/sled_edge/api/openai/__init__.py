"""The OpenAI API: chat, completions and models, streaming or not."""
