"""The packaged tables as values: rule tables, price snapshot, demo captures. Data lives in `receiver/data/`, code does not."""

from __future__ import annotations

import gzip
import json
import tomllib
from importlib.resources import files
from typing import Any, cast


def load_bytes(name: str) -> bytes:
    """A file of `receiver/data/` as it is; one that ends in `.gz` is inflated."""
    data = files("receiver").joinpath("data", name).read_bytes()
    return gzip.decompress(data) if name.endswith(".gz") else data


def load_toml(name: str) -> dict[str, Any]:
    """A TOML table of `receiver/data/`."""
    return tomllib.loads(load_bytes(name).decode())


def load_json(name: str) -> dict[str, Any]:
    """A JSON document of `receiver/data/`, `.json` or `.json.gz`."""
    return cast("dict[str, Any]", json.loads(load_bytes(name)))
