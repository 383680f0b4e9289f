"""WHAT exists: one thin module per stage, in the row's order.

raw → clean → feature → feature_store → model → score → monitor. Module = group = key prefix = folder in the lake.
An asset reads, calls one function of the library or of `features/`, and returns with metadata. Stages refer to each
other by key; none imports another.
"""
