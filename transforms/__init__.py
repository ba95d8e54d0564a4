"""Transforms: pure functions from Arrow tables to Arrow tables. No Django, no Prefect, no I/O.

`transforms.registry.make("resample(timeframe='1h') | rsi(window=14)")` is the door. To add an indicator
that `ta` lacks, write one decorated function in a file of this folder (`returns.py` shows it); a new
transformer is one subclass of `BaseTransformer` with a `name`. Both are found by scanning.
"""
