"""Reads, plans, applies and reports, one file per resource kind; all judgement is in the pure
modules."""
