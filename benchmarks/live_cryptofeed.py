"""cryptofeed, hearing Binance trades from a server on loopback into Redis streams; run by an interpreter that has it.

    PYTHON live_cryptofeed.py STREAM_ADDRESS REDIS_HOST REDIS_PORT/DATABASE SYMBOL…

Nothing here is ours, and cryptofeed is as it comes, but that it is told another address, without TLS, and the symbols
instead of asking for them. It runs until its input ends.
"""

import asyncio
import os
import sys
import threading

from cryptofeed import FeedHandler
from cryptofeed import connection
from cryptofeed.backends.redis import TradeStream
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbols
from websockets.asyncio.client import connect


def main(address: str, host: str, port: str, *symbols: str) -> None:
    secure = address.replace("ws://", "wss://")
    # it refuses an address that is not wss, and the server here has no certificate
    connection.connect = lambda url, **options: connect(url.replace("wss://", "ws://"), **options)
    Binance.websocket_endpoints = [WebsocketEndpoint(secure)]
    names = {f"{symbol[:3]}-{symbol[3:]}": symbol for symbol in symbols}
    Symbols.set(Binance.id, names, {"instrument_type": dict.fromkeys(names, "spot")})
    handler = FeedHandler()
    handler.add_feed(
        Binance(symbols=list(names), channels=[TRADES], callbacks={TRADES: TradeStream(host=host, port=port)})
    )
    # uvloop makes none by itself any more
    asyncio.set_event_loop(asyncio.new_event_loop())
    threading.Thread(target=_end_with_input, daemon=True).start()
    handler.run(install_signal_handlers=False)


def _end_with_input() -> None:
    sys.stdin.read()
    # its own end waits for what is still queued
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
