"""Dagster: assets, jobs, schedules, sensors, checks; and the emulator that runs need."""
