"""Runs the benchmarks one after another, each in a process of its own.

    python -m benchmarks [--full] [--list] [NAME …]

Without names it runs all of them, in their short forms. `--full` runs the long forms, whose figures
are worth logging if the machine is quiet.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

# by name, what makes each of them short
BENCHMARKS: dict[str, list[str]] = {
    "engine": ["--quick"],
    "reranking": ["--documents", "64", "--rounds", "2"],
    "sparse": ["--texts", "64", "--rounds", "2"],
    "online": ["--quick"],
    "thin_path": [],
    "path": ["--rounds", "1", "--rows", "4000"],
    "starts": ["--starts", "2"],
    "mixed": [],
    "overload": [],
    "failures": ["--rounds", "1"],
    "soak": ["--minutes", "3"],
    "encode": ["--rows", "2000"],
    "stage": ["--rows", "4000", "--rounds", "1"],
    "choosing": [],
    "languages": [],
    "quantization": ["--texts", "300"],
    "scaling": [],
    "simulation": [],
    "scaling_bound": ["--days", "1"],
    "balancing": ["--seconds", "60"],
}


def summaries() -> str:
    """Returns a line for each benchmark: its name and the first line of its docstring."""
    lines = []
    for name in BENCHMARKS:
        source = Path(__file__).with_name(f"{name}.py").read_text()
        docstring = ast.get_docstring(ast.parse(source)) or ""
        lines.append(f"  {name:12}{docstring.splitlines()[0]}")
    return "\n".join(lines)


def run(name: str, full: bool) -> bool:
    """Runs one benchmark; returns whether it succeeded."""
    started = time.perf_counter()
    arguments = [] if full else BENCHMARKS[name]
    print(f"\n== python -m benchmarks.{' '.join([name, *arguments])}", flush=True)
    process = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=False)
    print(f"== {name} took {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return process.returncode == 0


def main() -> None:
    """Runs the benchmarks that are named, and says at the end which failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{summaries()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--full", action="store_true", help="run the long forms")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and exit")
    args = parser.parse_args()
    if args.list:
        print(summaries())
        return
    if unknown := set(args.names) - set(BENCHMARKS):
        names = ", ".join(BENCHMARKS)
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {names}")
    failed = [name for name in args.names or BENCHMARKS if not run(name, args.full)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
