"""How the numbers of the late-flight model are made: pure functions, no framework.

What belongs here: the feature tables as functions of clean tables (`features.tables`), the values that come with a
request (`features.request_time`), the order and the priors of a vector (`features.vectors`) and what each feature
means (`features.documentation`). What does not: when or where something runs (`assets/`, `jobs/`, `feature_repo/`),
and any import of a framework.
"""
