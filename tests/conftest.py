"""Fixture families, one file for each."""

pytest_plugins: list[str] = []
