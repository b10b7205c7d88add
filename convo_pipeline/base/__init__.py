"""Values and helpers without knowledge of the product: clock, cancellation, threads, JSON, secrets."""
