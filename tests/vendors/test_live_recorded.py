"""Recorded sessions of Binance come again, to a plain client."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.vendors.live.recorded import RecordedStandIn
from tests.vendors.live.recorded import answers
from tests.vendors.live.recorded import session
from tests.vendors.live.talk import LONG
from tests.vendors.live.talk import client
from tests.vendors.live.talk import said
from tests.vendors.live.talk import tell


@pytest.mark.corpus
@pytest.mark.parametrize(("name", "count"), [("BINANCE", 265), ("BINANCE_US", 480)])
def test_recorded_sessions_come_again_word_for_word(corpus: Path, name: str, count: int) -> None:
    recorded = session(corpus, name)
    with RecordedStandIn(recorded) as binance:
        with client(binance, recorded.asked) as socket:
            # ends where it was closed in order, and raises where it was not
            heard = list(socket)
        assert binance.done == [1]
        assert heard == [message for _, message in recorded.messages]
        assert len(heard) == count
        # only what is asked for, and without the name of the stream where that is not asked for
        trades = [stream for stream in recorded.streams if "aggTrade" in stream]
        binance.stays = True
        binance.awaited = set(trades)
        with client(binance, "/ws") as socket:
            tell(socket, method="SUBSCRIBE", params=trades[:1], id=1)
            tell(socket, method="SUBSCRIBE", params=trades[1:], id=2)
            assert [said(socket)["id"] for _ in range(2)] == [1, 2]
            expected = [json.loads(text)["data"] for text in heard if "@aggTrade" in text]
            assert [said(socket) for _ in expected] == expected
            binance.wait_for(lambda: binance.done == [1, 2])


@pytest.mark.corpus
def test_recorded_sessions_come_at_a_speed(corpus: Path) -> None:
    recorded = session(corpus, "BINANCE")
    lasted = recorded.messages[-1][0] - recorded.messages[0][0]
    with RecordedStandIn(recorded, speed=lasted / 0.3) as binance, client(binance, recorded.asked) as socket:
        begun = binance.do(lambda: asyncio.get_running_loop().time())
        for _ in recorded.messages:
            socket.recv(LONG)
        assert binance.do(lambda: asyncio.get_running_loop().time()) - begun > 0.2


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["BINANCE", "BINANCE_US"])
def test_recorded_answers_of_rest_belong_to_the_session(corpus: Path, name: str) -> None:
    found = answers(corpus, name)
    books = [address for address in found if "/depth?" in address]
    assert len(books) == 4
    listed = {one["symbol"] for address, said in found.items() if "exchangeInfo" in address for one in said["symbols"]}
    symbols = {stream.partition("@")[0].upper() for stream in session(corpus, name).streams}
    assert len(symbols) == 4
    assert symbols <= listed
