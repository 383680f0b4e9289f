"""Contrail's generic library: no orchestrator and no domain in here.

What belongs here: reading and writing the lake, contracts and their execution, point-in-time joins, training,
registry, scoring, monitoring, the trail. What does not: anything that knows what the rows are about (that is
`contracts/`, `sources/`, `features/`, `feature_repo/` and `dbt_project/`), and anything that imports dagster.
"""

__version__ = "0.1.0"
