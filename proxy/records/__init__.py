"""What is on record: users, keys, usage, changes. In SQLite, or in PostgreSQL."""
