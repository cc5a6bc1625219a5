"""Moving a home's studies and records from SQLite files to PostgreSQL."""
