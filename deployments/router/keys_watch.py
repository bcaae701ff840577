"""Reads the file of tenants again when it has changed, so that keys come and go without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from deployments.config.keys_file import read_tenants
from deployments.core.tenants.tenant import Tenant

log = logging.getLogger("ray.serve")
_Version = tuple[int, int, int]


class KeysWatch:
    """Hands the tenants of a file to ``use`` whenever there are other ones."""

    def __init__(
        self,
        file: Path,
        models: Collection[str],
        use: Callable[[Mapping[bytes, Tenant]], None],
    ) -> None:
        """Reads the file for the first time. Raises what `read_tenants` raises.

        ``models`` are the names of the configured models.
        """
        self._file = file
        self._models = models
        self._use = use
        self._problem: str | None = None
        # before the file is read: if it changes meanwhile, it is read again
        self._seen = self._version()
        use(read_tenants(file, models))

    def look(self) -> None:
        """Reads the file if it has changed. Blocks.

        If it is wrong, the tenants stay as they are, and the log says so once.
        """
        try:
            if (version := self._version()) == self._seen:
                return
            tenants = read_tenants(self._file, self._models)
        except (OSError, ValueError) as error:
            self._report(str(error))
            return
        self._seen, self._problem = version, None
        self._use(tenants)
        log.info("%s: %d keys are in use from now on", self._file, len(tenants))

    def _version(self) -> _Version:
        """Returns what changes whenever the file is written or replaced. Raises OSError."""
        stat = self._file.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error("%s; the keys stay as they were", problem)
