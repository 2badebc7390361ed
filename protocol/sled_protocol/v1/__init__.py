"""Messages and stubs of sled.v1, generated from `verifier.proto`; nothing here is edited by hand."""
