"""Databento's historical interface behind a narrow door; nothing here knows options, Django or Prefect.

client.py    one call, its answer read as documented; what is tried again at once
landed.py    which call a page answers, and what of the answer it is (pure)
symbols.py   a dataset: which windows it has, on which days its symbols mean something
parents.py   parents, whose requests bring the records of their children (pure)
figures.py   what a call will bring and cost, said before it is bought
streams.py   streams that are counted while they pass: what is cut does not land
batch.py     batch jobs: agree, submit once, wait, fetch files that go on where they broke off
actions.py   corporate actions → events, and which were taken back (pure)
"""
