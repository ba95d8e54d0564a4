"""A Redis of one test alone, which it may stop and start."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

#: where `make services` installs it
CHROOT = Path("/var/cache/dataflow/trixie")


@dataclass
class Server:
    """A Redis that a test may harm."""

    command: list[str]
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([*self.command, *arguments], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(20)
            self.process = None


@contextmanager
def running_redis() -> Iterator[Server]:
    """An empty Redis of this test alone: the program of PATH, or the one that `make services` installed."""
    program = shutil.which("redis-server")
    command = [program] if program else ["chroot", str(CHROOT), "redis-server"]
    if not program and (os.geteuid() or not (CHROOT / "usr/bin/redis-server").exists()):
        pytest.skip("no program redis-server here: the server of `make services` is elsewhere")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Server(command, port)
    made.start()
    try:
        yield made
    finally:
        made.stop()
