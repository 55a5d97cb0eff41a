"""The archive as a whole: layout, codec and storage in the right order."""
