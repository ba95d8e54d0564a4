"""Databento's live gateway: https://databento.com/docs/api-live, raw TCP; nothing here knows sources or Django.

gateway.py   what is said in text: where the gateway is, greeting, authentication, subscriptions
messages.py  what the gateway's own records say (pure)
asked.py     what is subscribed, and what of it the gateway has taken up (pure)
session.py   the life of one connection: blocks of whole records, and what the gateway tells
reading.py   landed blocks as tables (pure)
"""
