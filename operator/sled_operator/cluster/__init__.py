"""The only package that calls the Kubernetes API: a small Protocol, its client, and a shipped
fake."""
