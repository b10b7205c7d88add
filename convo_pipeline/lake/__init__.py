"""Where the tables are kept and read."""
