"""Fixture families, one file for each."""

pytest_plugins: list[str] = ["tests.fix_postgres"]
