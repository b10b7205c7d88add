"""Dagster: assets, jobs, schedules, sensors and checks. Only this folder imports Dagster."""
