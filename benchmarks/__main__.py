"""`make bench` or `python -m benchmarks [NAME …]`: prints each ratio with its target, the machine and the versions."""

import importlib
import sys

from benchmarks.machine import Line
from benchmarks.machine import describe
from benchmarks.machine import prepare

NAMES = ("planning", "pages", "dbn", "ticks", "bars", "reading", "memory", "live_dbn", "live_store", "live_json")


def main(chosen: list[str]) -> int:
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        print(f"benchmark {', '.join(unknown)} is unknown; have: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    print(describe())
    with prepare():
        missed = 0
        for name in chosen or NAMES:
            for line in importlib.import_module(f"benchmarks.{name}").run():
                print(f"{name:9} {line}", flush=True)
                missed += isinstance(line, Line) and not line.met
    print(f"{missed} targets missed" if missed else "all targets met")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
