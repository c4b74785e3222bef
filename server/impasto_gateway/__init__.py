"""The front door: an HTTP API and a page, in front of one or several impasto servers. Read app.py first.

It is a client of Triton's gRPC like any other: of impasto's packages it imports `impasto_client` alone.
"""
