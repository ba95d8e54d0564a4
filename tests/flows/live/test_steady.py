"""What a run changes of its process is put back, and routes that keep up go first."""

import gc
import sys
import threading
import time

from flows.live.ring import Ring
from flows.live.steady import steady


def test_the_last_run_puts_back_what_was():
    before = gc.get_threshold(), sys.getswitchinterval(), gc.get_freeze_count()
    with steady():
        inside = gc.get_threshold()
        assert inside != before[0]
        assert gc.get_freeze_count() > before[2]
        with steady():
            assert gc.get_threshold() == inside
        assert gc.get_threshold() == inside
    assert (gc.get_threshold(), sys.getswitchinterval(), gc.get_freeze_count()) == before


def test_who_refines_waits_for_the_routes_that_keep_up_but_not_long():
    ring = Ring()
    ring.add(0, 5, [])
    begun = time.monotonic()
    assert not ring.settle(0.1)
    # nobody has taken it
    assert time.monotonic() - begun >= 0.1
    steps, _ = ring.take(0, 0)
    assert len(steps) == 1
    done = []

    def work():
        with ring.work():
            time.sleep(0.2)
            done.append(True)

    route = threading.Thread(target=work)
    route.start()
    while not ring._working:
        time.sleep(0.001)
    assert ring.settle(10)
    assert done
    route.join()
    ring.settle(10)
    assert time.monotonic() - begun < 5
