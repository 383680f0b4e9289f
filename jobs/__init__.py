"""WHEN it runs: jobs, schedules, sensors, conditions. The only place where an arrow goes back."""
