"""The commands a person types: what `cli` calls, with progress, tables and advice on a console."""
