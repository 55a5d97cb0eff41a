"""What PostgreSQL starts for each segment: standard library only."""
