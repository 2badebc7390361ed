"""How many verifiers a SLEDServer should have: a pure decision, and what feeds it."""
