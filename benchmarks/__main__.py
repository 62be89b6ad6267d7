"""Runs every benchmark, one process each, and prints its tables: `python -m benchmarks [NAME...] [--write]`.

--write puts them into docs/benchmarks.md with a description of the machine. Figures are medians of alternating rounds;
ratios to a peer in the same run are what to compare between machines, absolute times are not.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ORDER = ("router", "wire", "assign", "intake", "analysis")
INTRODUCTION = """\
# Benchmarks

Made by `make bench BENCH_ARGS=--write`; each table comes from the file of the same name in `benchmarks/`, with its
peers in the same run. Medians of alternating rounds. Compare ratios, not times: the machine is shared and noisy.

What we hold ourselves to, on one core with everything on: the router at least 2x Envoy and 0.5x nginx in requests a
second, below 0.2 ms added at the median and 1 ms at p99 at half load; 0.7 million assignments a second in a plain loop
and 1 million through `assign_many`; 200,000 outcomes a second acknowledged after fdatasync in batches of 100 and 20,000
one by one; ten million exposures with twenty million outcomes analysed below 10 s and 1.5 GiB, refreshed below 1 s.
Where a table misses, it misses.

"""


def machine() -> str:
    """What the figures were measured on, without anything that names the machine itself."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}, "
        f"CPython {platform.python_version()}; {time.strftime('%Y-%m-%d', time.gmtime())}."
    )


def run(name: str) -> tuple[str, int]:
    """One benchmark's output and exit code; shown as it comes."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    return "".join(lines), process.returncode


def main() -> int:
    """Run the named benchmarks, or all of them."""
    available = [n for n in ORDER if (HERE / f"{n}.py").exists()]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"any of: {', '.join(available)}")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    names = arguments.names or available
    unknown = [name for name in names if name not in available]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]}; there are: {', '.join(available)}")
    page, worst = INTRODUCTION + f"Machine: {machine()}\n", 0
    for name in names:
        sys.stdout.write(f"\n## {name}\n\n")
        output, code = run(name)
        page += f"\n## {name}\n\n```\n{output.strip()}\n```\n"
        worst = max(worst, abs(code))
    if arguments.write:
        (HERE.parent / "docs" / "benchmarks.md").write_text(page)
    return worst


if __name__ == "__main__":
    sys.exit(main())
