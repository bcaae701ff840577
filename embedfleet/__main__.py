"""The command ``embedfleet``, also ``python -m embedfleet``."""

from __future__ import annotations

import sys

from embedfleet.own_packages import PackageHidden, check_own_packages


def main() -> int:
    """Runs one command and returns its exit status; 2 if another package hides one of ours."""
    try:
        check_own_packages()
    except PackageHidden as error:
        print(f"embedfleet: {error}", file=sys.stderr)
        return 2
    from cluster import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
