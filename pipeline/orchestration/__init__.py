"""Running the graph: Prefect flows, schedules, DVC processes."""
