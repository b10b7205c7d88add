"""The state database: everything known besides the rows."""
