"""Schemas: what the user says of the columns of a CSV file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_jax.data.cells import canonical
from vae_jax.data.columns import KINDS, MAX_CATEGORIES, MISSING, Rule
from vae_jax.data.files import listed, shortened
from vae_jax.data.idx import DataError


def read_schema(path: Path, header: Sequence[str]) -> dict[str, Rule]:
    """Read a schema; `read_table` says what stands in one.

    Args:
        path: the JSON file.
        header: names of the columns of the table.

    Returns:
        What it says, by the name of the column.

    Raises:
        DataError: if it cannot be read, is malformed, or names a column that is not there.
    """

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise ValueError(f"the key {key!r} is there twice")
        return dict(pairs)

    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=refuse_twice)
    except OSError as error:
        raise DataError(f"schema {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"schema {path}: no valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"schema {path}: an object with columns is needed, not {shortened(found)}")
    rules = {}
    for name, rule in found.items():
        if name not in header:
            raise DataError(f"schema {path}: column {name!r} is not one of {listed(header)}")
        try:
            rules[name] = _rule_of(rule)
        except DataError as error:
            raise DataError(f"schema {path}: column {name!r}: {error}") from error
    return rules


def _rule_of(rule: Any) -> Rule:
    fields = rule if isinstance(rule, dict) else {"kind": rule}
    kind = fields.get("kind")
    if kind not in (*KINDS, "ignore"):
        allowed = ", ".join((*KINDS, "ignore"))
        raise DataError(f"kind {shortened(kind)} is not one of {allowed}")
    if unknown := fields.keys() - {"kind", "categories"}:
        raise DataError(f"key {min(unknown)!r} is not one of kind, categories")
    if "categories" not in fields:
        return Rule(kind)
    if kind not in ("binary", "categorical"):
        raise DataError(f"categories do not belong to the kind {kind}")
    given = fields["categories"]
    if not (isinstance(given, list) and given and all(isinstance(name, str) for name in given)):
        raise DataError(f"categories {shortened(given)}: a list of texts is needed")
    categories = tuple(name.strip() for name in given)
    most = 2 if kind == "binary" else MAX_CATEGORIES
    if len(categories) > most:
        raise DataError(f"{len(categories)} categories, but a {kind} column has at most {most}")
    for i, name in enumerate(categories):
        if name.lower() in MISSING:
            raise DataError(f"category {name!r} stands for a missing value")
        if canonical(name) in map(canonical, categories[:i]):
            raise DataError(f"category {name!r} is there twice")
    return Rule(kind, categories)
