"""Bloomberg's desktop, server and B-PIPE interfaces behind a narrow door.

asks.py      windows and symbols → the requests of //blp/refdata (pure)
session.py   one session: connect, authenticate, ask, yield messages; the only user of `blpapi`
faults.py    Bloomberg's errors → ours (pure)
answers.py   messages → raw rows and what is wrong with them (pure)
"""
