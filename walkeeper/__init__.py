"""Continuous archiving for PostgreSQL.

Only the version lives here: the hooks import this package on every WAL segment, so it must stay
empty of anything that costs time.
"""

__version__ = "0.1.0"
