"""Verification by a model server that runs elsewhere: it says which token it would choose after each draft token, from
the log-probabilities of a prompt."""
