"""The PostgreSQL server and its data directory."""
