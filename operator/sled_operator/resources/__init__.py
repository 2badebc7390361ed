"""Pure builders, one file per Kubernetes kind: from a resource to a manifest, without I/O."""
