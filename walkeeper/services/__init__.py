"""Use cases: archive, fetch, back up, restore, report."""
