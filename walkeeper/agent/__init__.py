"""The resident process: builds the objects, owns the TaskGroup."""
