"""Benchmarks of the service, its engine and its peers."""

import testing  # noqa: F401  # sets the token of this process's Rays, before Ray is imported
