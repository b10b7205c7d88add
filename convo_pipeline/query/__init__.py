"""DuckDB connection and views over the tables."""
