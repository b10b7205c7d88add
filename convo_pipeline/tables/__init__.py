"""Pure steps between tables: payloads to rows, rows to rows. No file, no API."""
