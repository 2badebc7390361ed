"""Support for tests and benches: servers, devices and clusters that a test can start. Never
shipped, never imported by a role.
"""
