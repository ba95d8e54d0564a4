"""Bloomberg's desktop, server and B-PIPE interfaces behind a narrow door.

options.py        options of a source
faults.py         Bloomberg's errors → ours (pure)
session.py        one session that asks: connect, authenticate, send requests, yield the messages of answers
  asks.py         windows and symbols → the requests of //blp/refdata (pure)
  answers.py      messages → raw rows and what is wrong with them (pure)
  fetch.py        messages → pages
  progress.py     what of a fetch has landed (pure)
listening.py      one session that listens: connect, authenticate, subscribe to //blp/mktdata, give what comes
  subscriptions.py  what was asked, what became of it
  events.py       messages → bytes → trades (pure)
  stream.py       what blocks, in a thread of its own, for the loop

Only session.py, listening.py and subscriptions.py use `blpapi`.
"""
