"""Recipients, identities and the writer key: parsing and loading."""
