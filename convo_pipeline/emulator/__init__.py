"""Emulator of the Graph API on 127.0.0.1 for demo, tests and notebooks. Imports nothing of ours."""
