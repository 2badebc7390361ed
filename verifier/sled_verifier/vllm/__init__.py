"""The production backend: vLLM in process, with drafts from the devices. Importing this package must
not import vLLM.
"""
