"""The soak, shortened: 20,000 messages a second into TimescaleDB and Redis, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REDIS
from tests.conftest import TIMESCALE
from tests.conftest import require

#: `DATAFLOW_SOAK_SECONDS=3600` is the real one
SECONDS = float(os.environ.get("DATAFLOW_SOAK_SECONDS", "10"))


@pytest.mark.services
@pytest.mark.timeout(SECONDS + 240)
def test_nothing_is_lost_or_doubled_at_twenty_thousand_messages_a_second(server):
    environ = {**os.environ, TIMESCALE: require(TIMESCALE), REDIS: server.url}
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", str(SECONDS)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{int(SECONDS * 20_000):,} trades: lost in TimescaleDB" in done.stdout
