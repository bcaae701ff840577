"""Runs the benchmarks one after another, each in a process of its own.

    python -m benchmarks [--full] [NAME …]

Without names all of them, in their short form where they have one; `--full` takes the long one,
whose figures are worth writing down on a quiet machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

# what makes each short
BENCHMARKS: dict[str, list[str]] = {
    "engine": ["--quick"],
    "online": ["--quick"],
    "thin_path": [],
    "mixed": [],
    "overload": [],
    "failures": ["--rounds", "1"],
    "soak": ["--minutes", "3"],
    "encode": ["--rows", "2000"],
    "choosing": [],
    "languages": [],
    "scaling": [],
    "simulation": [],
}


def run(name: str, full: bool) -> bool:
    """Runs one benchmark; returns whether it came to its end."""
    started = time.perf_counter()
    arguments = [] if full else BENCHMARKS[name]
    print(f"\n== python -m benchmarks.{' '.join([name, *arguments])}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=False)
    print(f"== {name} took {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return done.returncode == 0


def main() -> None:
    """Runs what is asked for and says at the end what failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--full", action="store_true", help="as long as the figures need")
    args = parser.parse_args()
    if unknown := set(args.names) - set(BENCHMARKS):
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    failed = [name for name in args.names or BENCHMARKS if not run(name, args.full)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
