"""Nested mappings as flat ones."""

from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def contains(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether nested or dotted values hold all that is wanted, which is compared as text."""
    flat = flatten(values)
    return all(key in flat and str(flat[key]) == str(v) for key, v in flatten(wanted).items())
