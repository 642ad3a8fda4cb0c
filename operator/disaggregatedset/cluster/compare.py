"""Whether a live object has all that a manifest asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

#: Fields that name the entries of the lists that Kubernetes merges; the first that all entries have is used.
_LIST_KEYS = (("name",), ("containerPort", "protocol"), ("port", "protocol"), ("uid",), ("mountPath",), ("devicePath",))

#: Maps that Kubernetes replaces as a whole: one more entry changes what they mean.
_ATOMIC = {"selector", "labelSelector", "nodeSelector"}

#: Paths of quantities; elsewhere "1.10" and "1.1" are two things.
_IS_QUANTITY = re.compile(
    r"(^|\.)(limits|requests|overhead)\.|(^|\.)(sizeLimit|divisor)$"
    r"|(^|\.)target\.(value|averageValue)$|(^|\.)scale(Up|Down)\.tolerance$"
)


def missing(wanted: Any, live: Any) -> Iterator[str]:
    """Find what a live object lacks of a manifest.

    What the live object has beyond the manifest (defaults, fields of other managers) does not count. Quantities are
    compared by value, because the API server writes them its own way.

    Parameters
    ----------
    wanted
        The manifest, or a part of it.
    live
        What the API server has there.

    Yields
    ------
    str
        Paths, such as ``spec.template.spec.containers[engine].image``.
    """
    return (path for path, _ in _differences(wanted, live, ""))


def absent(wanted: Any, live: Any) -> Iterator[str]:
    """Find what a live object has nothing of, as where the API server does not know a field.

    Other than for :func:`missing`, another value than the wanted one does not count: admission may change values.
    """
    return (path for path, there in _differences(wanted, live, "") if there is None)


def _differences(wanted: Any, live: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(wanted, dict) and (isinstance(live, dict) or live is None):
        for field, value in wanted.items():
            there, where = (live or {}).get(field), f"{path}.{field}" if path else field
            if field in _ATOMIC and (there or None) != (value or None):
                yield where, there
            else:
                yield from _differences(value, there, where)
    elif isinstance(wanted, list) and (isinstance(live, list) or live is None):
        yield from _differences_of_entries(wanted, live, path)
    elif not _equal(wanted, live, path):
        yield path, live


def _differences_of_entries(wanted: list[Any], live: list[Any] | None, path: str) -> Iterator[tuple[str, Any]]:
    fields = _key_fields(wanted)
    if fields is None:
        if len(wanted) != len(live or []):
            yield path, live
        else:
            for index, (value, other) in enumerate(zip(wanted, live or [], strict=True)):
                yield from _differences(value, other, f"{path}[{index}]")
        return
    entries = {_entry_key(entry, fields): entry for entry in live or [] if isinstance(entry, dict)}
    for value in wanted:
        key = _entry_key(value, fields)
        where = f"{path}[{key[0]}]"
        if key in entries:
            yield from _differences(value, entries[key], where)
        else:
            yield where, None


def _entry_key(entry: dict[str, Any], fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(entry.get(field, "TCP" if field == "protocol" else None)) for field in fields)


def _key_fields(entries: list[Any]) -> tuple[str, ...] | None:
    if not all(isinstance(entry, dict) for entry in entries):
        return None
    for fields in _LIST_KEYS:
        if all(isinstance(entry.get(fields[0]), str | int) for entry in entries) and len(
            {_entry_key(e, fields) for e in entries}
        ) == len(entries):
            return fields
    return None


def _equal(wanted: Any, live: Any, path: str) -> bool:
    if wanted == live:
        return True
    if not wanted and live is None:  # the API server leaves empty values out
        return True
    if not _IS_QUANTITY.search(path):
        return False
    one, other = _quantity(wanted), _quantity(live)
    return one is not None and one == other


def _quantity(value: Any) -> Decimal | None:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    try:
        number = Decimal(parse_quantity(str(value) if isinstance(value, float) else value))  # not 0.1000000000000000055
    except ValueError:
        return None
    return number if number.is_finite() else None
