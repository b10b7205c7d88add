"""Who asks: the Dagster assets, jobs and schedules. The only place that knows Dagster."""
