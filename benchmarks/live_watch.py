"""A consumer of Redis streams that notes when what became readable, for as long as its input lasts.

    python -m benchmarks.live_watch URL STREAM…

It writes a line of JSON: [nanoseconds since 1970, [last id of each stream]] for each time it saw something new.
"""

import json
import sys
import threading
import time

import redis


def main(url: str, *streams: str) -> None:
    seen: list[tuple[int, list[str]]] = []
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    known = dict.fromkeys(streams, "0-0")
    with redis.Redis.from_url(url, decode_responses=True) as client:
        print("ready", flush=True)
        while not ended.is_set():
            if client.xread(known, count=1, block=100):
                pipe = client.pipeline(transaction=False)
                for stream in streams:
                    pipe.xrevrange(stream, count=1)
                known = {
                    stream: found[0][0] if found else "0-0"
                    for stream, found in zip(streams, pipe.execute(), strict=True)
                }
                # by now all of it was readable
                seen.append((time.time_ns(), list(known.values())))
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
