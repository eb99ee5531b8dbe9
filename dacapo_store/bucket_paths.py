"""Paths in buckets, as DaCapo, zarr and everybody else who uses fsspec has them; and addresses from these.

An address of a base says what this package's own requests need to know, a path what fsspec's file
systems do. Credentials are in neither: both look for them in the environment and in profiles.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlencode

from eventstore import Address

if TYPE_CHECKING:
    from upath import UPath

_PACKAGES: Final = {"s3": ("s3fs", "objects"), "gs": ("gcsfs", "gcs"), "az": ("adlfs", "azure")}
"""The package that opens paths of each kind, and the extra that brings it."""

_SCHEMES: Final = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az"}
_TRUE: Final = ("1", "true", "yes")


def bucket_path(address: str) -> UPath:
    """The path of an address of a bucket, with what of its options fsspec needs to know."""
    # Importing upath costs more than all of a small call, and only stores need it.
    from upath import UPath

    parts = Address.parse(address)
    path: UPath = UPath(parts.location, **_OPTIONS[parts.scheme](parts.options))
    return path


def require_opener(path: UPath) -> None:
    """Return when paths of this kind can be opened here.

    Raises:
        ModuleNotFoundError: The package for it is not installed; the text says how to.
    """
    package, extra = _PACKAGES.get(_SCHEMES.get(path.protocol, ""), ("", ""))
    if package and importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"arrays in {path} need the package {package}: pip install 'dacapo-store[{extra}]'", name=package
        )


def address_text(given: str | os.PathLike[str] | UPath) -> str:
    """A path, or the address that a path in a bucket stands for, as text."""
    scheme = _SCHEMES.get(getattr(given, "protocol", ""))
    if scheme is None:
        return os.fspath(cast("os.PathLike[str]", given))
    location = f"{scheme}://{str(given).partition('://')[2]}"
    options = _address_options(getattr(given, "storage_options", {}))
    return f"{location}?{urlencode(options)}" if options else location


def _address_options(storage: Mapping[str, Any]) -> dict[str, str]:
    """The options of an address that ``bucket_path`` made of it, or that people give paths."""
    client = storage.get("client_kwargs") or {}
    found = {
        "endpoint": storage.get("endpoint_url") or client.get("endpoint_url"),
        "region": client.get("region_name"),
        "account": storage.get("account_name"),
        "anonymous": "true" if storage.get("anon") or storage.get("token") == "anon" else None,
    }
    return {name: str(value) for name, value in found.items() if value}


def _of_s3(options: Mapping[str, str]) -> dict[str, Any]:
    storage: dict[str, Any] = {}
    if "endpoint" in options:
        storage["endpoint_url"] = options["endpoint"]
    if _is_set(options, "anonymous"):
        storage["anon"] = True
    if "region" in options:
        storage["client_kwargs"] = {"region_name": options["region"]}
    if _is_set(options, "virtual_hosted_style"):
        storage["config_kwargs"] = {"s3": {"addressing_style": "virtual"}}
    return storage


def _of_gs(options: Mapping[str, str]) -> dict[str, Any]:
    storage: dict[str, Any] = {}
    if "endpoint" in options:
        storage["endpoint_url"] = options["endpoint"]
    if _is_set(options, "anonymous"):
        storage["token"] = "anon"  # noqa: S105 - the name of a way
    return storage


def _of_az(options: Mapping[str, str]) -> dict[str, Any]:
    storage: dict[str, Any] = {}
    if "account" in options:
        storage["account_name"] = options["account"]
    if _is_set(options, "anonymous"):
        storage["anon"] = True
    if _is_set(options, "emulator"):
        storage["connection_string"] = "UseDevelopmentStorage=true"
    return storage


_OPTIONS: Final[Mapping[str, Callable[[Mapping[str, str]], dict[str, Any]]]] = {
    "s3": _of_s3,
    "gs": _of_gs,
    "az": _of_az,
}


def _is_set(options: Mapping[str, str], name: str) -> bool:
    return options.get(name, "").lower() in _TRUE
