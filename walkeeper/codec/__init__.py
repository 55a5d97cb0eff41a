"""Bytes in, bytes out: the age container, zstd, signatures. Synchronous; callers use threads."""
