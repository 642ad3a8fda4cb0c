"""Asks components whether they are healthy."""

from pathlib import Path
from typing import Self

import urllib3

_TIMEOUT = urllib3.Timeout(2)


class Prober:
    """Asks components whether they are healthy.

    Parameters
    ----------
    authority
        The certificate authority that signed their serving certificates.
    """

    def __init__(self, authority: Path) -> None:
        self._pool = urllib3.PoolManager(ca_certs=str(authority), retries=False, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.clear()

    def is_healthy(self, url: str) -> bool:
        """Return whether a health URL answers 200."""
        try:
            return self._pool.request("GET", url).status == 200
        except urllib3.exceptions.HTTPError:
            return False
