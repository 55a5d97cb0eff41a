"""Fixture families, one file for each."""

pytest_plugins: list[str] = ["tests.fix_age", "tests.fix_postgres", "tests.fix_archive"]
