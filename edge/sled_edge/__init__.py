"""What an EdgeDrafter's pods run: draft on the device, verify on the server, serve an OpenAI-compatible API on localhost."""
