"""obstore's client for an address: which bucket, which options, and where credentials come from.

obstore reads the environment variables of each ecosystem itself; profiles and emulators it is helped with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIMEOUT_SECONDS: Final = 30.0

_REPETITIONS: Final = 10
_BACKOFF_SECONDS_MAX: Final = 2.0
_COMMON: Final = ("endpoint", "allow_http", "anonymous", "timeout_seconds")
_KNOWN: Final[Mapping[str, Sequence[str]]] = {
    "s3": (*_COMMON, "region", "virtual_hosted_style"),
    "gs": _COMMON,
    "az": (*_COMMON, "account", "emulator"),
}
_NAMES: Final = {
    "endpoint": "endpoint",
    "anonymous": "skip_signature",
    "region": "region",
    "virtual_hosted_style": "virtual_hosted_style_request",
    "account": "account_name",
    "emulator": "use_emulator",
}
_ENDPOINTS: Final = {"s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")}
"""The environment variables that name an endpoint."""

_YES: Final = ("1", "true", "yes")
# The account that every Azurite has, with the key that Microsoft has published for it.
_EMULATED_ACCOUNT: Final = "devstoreaccount1"
_EMULATED_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

# The process in which obstore's runtime was started, if it was.
_started_in: int | None = None


def check_address(location: str, options: Mapping[str, str]) -> None:
    """Return when an address names a bucket, with options that are known.

    Raises:
        ValueError: It does not; the text says what is known.
    """
    scheme = urlsplit(location).scheme
    unknown = options.keys() - set(_KNOWN[scheme])
    if unknown:
        raise ValueError(
            f"{scheme}:// knows no option {', '.join(sorted(unknown))}; there are "
            f"{', '.join(_KNOWN[scheme])}. Credentials come from the environment or a profile, "
            "never from an address"
        )
    if not urlsplit(location).netloc:
        raise ValueError(f"{location} names no bucket: {scheme}://bucket/prefix")


def runtime_is_own() -> bool:
    """Whether obstore can be used in this process: not where its runtime was started before a fork."""
    return _started_in in (None, os.getpid())


def object_store(location: str, options: Mapping[str, str], *, patience_seconds: float = 0.0) -> ObjectStore:
    """The object of obstore for an address. It reads the environment variables of each ecosystem itself.

    Args:
        location: The address.
        options: Its options.
        patience_seconds: For so long obstore repeats a request by itself; 0 for once only.

    Raises:
        ImportError: obstore is not installed.
    """
    global _started_in  # noqa: PLW0603 - obstore has one runtime for a process
    try:
        from obstore import store
    except ImportError as error:
        raise ImportError(
            f"{location} needs the package obstore: pip install 'dacapo-store[objects]'"
        ) from error
    _started_in = os.getpid()
    parts = urlsplit(location)
    config: dict[str, Any] = {_NAMES[name]: value for name, value in options.items() if name in _NAMES}
    named = (os.environ.get(name) for name in _ENDPOINTS.get(parts.scheme, ()))
    endpoint = options.get("endpoint") or next(filter(None, named), "")
    allow_http = options.get("allow_http", "").lower() in _YES
    common: dict[str, Any] = {
        "prefix": unquote(parts.path).strip("/") or None,
        "config": config,
        "client_options": {
            "timeout": timedelta(seconds=float(options.get("timeout_seconds", TIMEOUT_SECONDS))),
            # Left out where it is not said: then the environment may say it.
            **({"allow_http": True} if allow_http or endpoint.startswith("http://") else {}),
        },
        "retry_config": {
            "max_retries": _REPETITIONS if patience_seconds else 0,
            "retry_timeout": timedelta(seconds=patience_seconds),
            "backoff": {"max_backoff": timedelta(seconds=_BACKOFF_SECONDS_MAX)},
        },
    }
    match parts.scheme:
        case "gs":
            return store.GCSStore(parts.netloc, **common)
        case "az":
            config.update(_emulated(config))
            return store.AzureStore(parts.netloc, **common)
    if _has_profile() and "skip_signature" not in config:
        common["credential_provider"] = _profile()
    return store.S3Store(parts.netloc, **common)


def _emulated(config: Mapping[str, str]) -> dict[str, str]:
    """What reaches an emulator at an endpoint: obstore would look for it where emulators are by default."""
    if "endpoint" not in config or config.get("use_emulator", "").lower() not in _YES:
        return {}
    account = config.get("account_name", _EMULATED_ACCOUNT)
    return {
        "use_emulator": "false",
        "endpoint": f"{config['endpoint'].rstrip('/')}/{account}",
        "account_name": account,
        **({"account_key": _EMULATED_KEY} if account == _EMULATED_ACCOUNT else {}),
    }


def _has_profile() -> bool:
    """Whether S3 credentials are to come from a profile, which obstore does not read by itself."""
    if "AWS_PROFILE" in os.environ:
        return True
    named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return "AWS_ACCESS_KEY_ID" not in os.environ and Path(named).expanduser().is_file()


def _profile() -> Any:
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise ImportError(
            "S3 credentials are in a profile, which needs the package boto3: pip install boto3; or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    return Boto3CredentialProvider()
