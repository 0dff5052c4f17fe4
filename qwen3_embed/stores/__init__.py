"""SQLite files: what each keeps, and how one is opened, checked, shared and bounded in size."""
