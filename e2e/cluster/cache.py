"""Where binaries and running clusters live, and how processes share these places."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


def cache_directory() -> Path:
    """Return ``$DSET_CACHE``, or ``disaggregatedset`` in the user's cache directory."""
    if configured := os.environ.get("DSET_CACHE"):
        return Path(configured).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "disaggregatedset"


def binaries_directory() -> Path:
    """Return the directory that has one folder per component and version."""
    return cache_directory() / "bin"


def crds_directory() -> Path:
    """Return the directory that has one folder per project and version."""
    return cache_directory() / "crds"


def clusters_directory() -> Path:
    """Return the directory that has one folder per running cluster."""
    return cache_directory() / "clusters"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created where missing. The kernel drops it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock on a file."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def clusters_lock() -> AbstractContextManager[None]:
    """Hold the lock under which cluster directories come, and under which abandoned ones go."""
    return locked(clusters_directory() / ".lock")


def remove_abandoned(pattern: str) -> None:
    """Remove the directories of the clusters of this name or glob pattern whose supervisor is gone."""
    for directory in clusters_directory().glob(pattern):
        if directory.is_dir() and not is_locked(directory / "lock"):
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes `target` at the end, or vanishes if anything fails meanwhile.

    Only one process may do this at a time for the same target; what one that was killed has left is removed.
    """
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
