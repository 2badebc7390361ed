"""Which draft model each node is given: device classes, prediction, choice. Pure; knows no
cluster."""
