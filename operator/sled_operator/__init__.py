"""The SLED operator: turns SLEDServer and EdgeDrafter resources into Kubernetes objects and keeps
them so."""
