"""What Feast and the library are told about the domain: views and services (`feature_views`), models (`use_cases`).

What belongs here: declarations only. What does not: how a number is made (`features/`) and when (`jobs/`). No module
here may be called ``definitions``: with the repository root on the path, `feast apply` would import the root's module
of that name instead, and empty the registry. Feast imports `feature_views` alone; `.feastignore` lists the others.
"""
