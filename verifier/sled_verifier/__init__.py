"""What a SLEDServer's pods run: one large target model that verifies the drafts of many devices in
one batch.
"""
