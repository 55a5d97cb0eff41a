"""Bytes in, bytes out: compression and encryption; synchronous, callers run it in threads."""
