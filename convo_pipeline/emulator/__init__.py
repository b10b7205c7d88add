"""A Graph API of our own, on loopback: so that demo, tests and notebooks need no token. Imports nothing of the rest."""
