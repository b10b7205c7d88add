"""One account through the chain: listing, walks, single messages, then into the raw tables. Knows no Dagster."""
