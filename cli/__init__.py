"""The `contrail` command: thin, one module per group. Heavy imports live inside the commands."""
