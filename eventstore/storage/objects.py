"""The engine for object storage: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

    log/{N:020d}.arrow    commit N: created once, never overwritten, never deleted
    seg/{k:012d}.arrow    1,024 commits in one object (``numbered.segments``)
    seg/8/ seg/64/        so many commits in one object
    turn                  changes when somebody cannot get a place
    snap/ index/          files that are derived from the log (``numbered.shared_files``)
    probe                 shows that the store creates an object only if there is none

Requests are never repeated in here: after an error it is the adapter that looks and decides. The only
module that imports obstore, and its synchronous interface only. Its runtime does not survive a fork:
a child whose parent has used it lets a helper process do its requests.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from eventstore.errors import UnsuitableStorageError
from eventstore.storage.numbered import DerivedObjects, LargeObject, LargeObjects, RefusedError, UnclearError
from eventstore.storage.numbered.helper import Helper

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIMEOUT_SECONDS: Final = 30.0

_PROBE: Final = "probe"
_AT_ONCE: Final = 16
_TRIES: Final = 3
_PART_BYTES: Final = 8 << 20
_PARTS_AT_ONCE: Final = 4
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

_Answer = TypeVar("_Answer")

_YES: Final = ("1", "true", "yes")
# The account that every Azurite has, with the key that Microsoft has published for it.
_EMULATED_ACCOUNT: Final = "devstoreaccount1"
_EMULATED_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

# The process in which obstore's runtime was started, if it was.
_started_in: int | None = None


class Client(Protocol):
    """The requests that there are: two that make a log, and those for files that are derived from it."""

    def create(self, name: str, data: bytes) -> bool:
        """Create an object; False when the store says that there is one, or is about to be."""

    def get(self, name: str) -> bytes | None:
        """The object, or None."""

    def replace(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.replace``."""

    def listed(self, folder: str) -> list[LargeObject]:
        """See ``LargeObjects.listed``."""

    def part(self, name: str, start: int, count: int) -> bytes | None:
        """See ``LargeObjects.part``."""

    def keep_file(self, name: str, path: Path) -> None:
        """See ``LargeObjects.keep_file``."""

    def remove(self, name: str) -> None:
        """See ``LargeObjects.remove``."""


def open_store(location: str, *, options: Mapping[str, str], read_only: bool) -> ObjectCommits:
    """The engine of an ``s3://``, ``gs://`` or ``az://`` address.

    Raises:
        ImportError: obstore is not installed.
        ValueError: The address names no bucket, or an option is not known; the text lists those.
    """
    del read_only
    check_address(location, options)
    return ObjectCommits(location, options)


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


class ObjectCommits:
    """Commits in a bucket.

    Args:
        location: The address.
        options: Its options.
    """

    keys: Literal["numbers"] = "numbers"

    def __init__(self, location: str, options: Mapping[str, str]) -> None:
        self.address = location
        self._options = dict(options)
        self._turn = threading.Lock()
        self._client: Client | None = None
        self._pool: ThreadPoolExecutor | None = None
        self.derived: DerivedObjects = _DerivedObjects(self)
        self.large: LargeObjects = _LargeObjects(self)

    def check(self) -> None:
        """See ``CommitStore.check``: the second of two creations of one object must fail."""
        try:
            is_told = not (self.client.create(_PROBE, b"one") and self.client.create(_PROBE, b"two"))
        except RefusedError as error:
            raise UnsuitableStorageError(
                f"{self.address} takes no objects, or not this way: {error}", path=self.address
            ) from error
        if not is_told:
            raise UnsuitableStorageError(
                f"{self.address} ignores If-None-Match: it created an object that was there already, so two "
                "writers would overwrite each other's commits. No log can be kept there; use a store that "
                "honours conditional writes (Amazon S3, Ceph, MinIO, R2, GCS, Azure), or shared:// on a file "
                "system",
                path=self.address,
            )

    def create(self, key: int, data: bytes) -> bool:
        """See ``CommitStore.create``."""
        return self.client.create(_name(key), data)

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """See ``CommitStore.read``: several requests at once where several are wanted."""
        answers = self.fetched([_name(each) for each in range(key, key + count)])
        return [data for data in takewhile(lambda data: data is not None, answers) if data is not None]

    def fetched(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Objects, each of them or None; asked for at once.

        Raises:
            UnclearError: One of them could not be asked for.
        """
        client = self.client
        if len(names) == 1:
            return iter([client.get(names[0])])
        workers = self._workers()
        try:
            asked = [workers.submit(_insistent, client.get, name) for name in names]
        except RuntimeError as error:
            raise UnclearError(str(error)) from error  # this process ends, or the store was closed
        return (each.result() for each in asked)

    def settle(self) -> None:
        """What a store gives, it has."""

    def wait(self, seconds: float) -> bool:
        """Each look costs money: it is left to who follows to look now and then."""
        time.sleep(seconds)
        return False

    def after_fork(self) -> None:
        """Leave what was inherited alone: even to release it would wait for threads that are not here."""
        _inherited.append((self._client, self._pool))
        self._turn = threading.Lock()
        self._client, self._pool = None, None

    def close(self) -> None:
        """Let the connections go."""
        pool, client = self._pool, self._client
        self._pool, self._client = None, None
        if pool is not None:
            pool.shutdown(wait=False)
        if isinstance(client, Helper):
            client.close()

    @property
    def client(self) -> Client:
        """What does the requests, made on first use."""
        with self._turn:
            if self._client is None:
                if runtime_is_own():
                    self._client = _Direct(self.address, self._options)
                else:
                    self._client = Helper(
                        "eventstore.storage.objects", "direct_client", self.address, self._options
                    )
            return self._client

    def _workers(self) -> ThreadPoolExecutor:
        with self._turn:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="objects")
            return self._pool


_inherited: list[object] = []


class _DerivedObjects:
    """Derived objects, beside the commits."""

    has_blocks = True

    def __init__(self, store: ObjectCommits) -> None:
        self._store = store

    def get(self, name: str) -> bytes | None:
        """See ``DerivedObjects.get``."""
        return self._store.client.get(name)

    def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See ``DerivedObjects.get_many``."""
        return list(self._store.fetched(names))

    def put(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.put``."""
        self._store.client.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.replace``."""
        self._store.client.replace(name, data)


class _LargeObjects:
    """Files that are derived from the log, beside the commits."""

    def __init__(self, store: ObjectCommits) -> None:
        self._store = store

    def listed(self, folder: str) -> list[LargeObject]:
        """See ``LargeObjects.listed``."""
        return self._store.client.listed(folder)

    def part(self, name: str, start: int, count: int) -> bytes | None:
        """See ``LargeObjects.part``."""
        return self._store.client.part(name, start, count)

    def keep_file(self, name: str, path: Path) -> None:
        """See ``LargeObjects.keep_file``."""
        self._store.client.keep_file(name, path)

    def remove(self, name: str) -> None:
        """See ``LargeObjects.remove``."""
        self._store.client.remove(name)


def direct_client(location: str, options: Mapping[str, str]) -> Client:
    """A client that does its requests itself, for a process that has not been forked since."""
    return _Direct(location, options)


class _Direct:
    """Requests by obstore, in this process."""

    def __init__(self, location: str, options: Mapping[str, str]) -> None:
        self._store = object_store(location, options)
        from obstore import exceptions

        self._exists = (exceptions.AlreadyExistsError, exceptions.PreconditionError)
        self._refused = (
            exceptions.PermissionDeniedError,
            exceptions.UnauthenticatedError,
            exceptions.NotSupportedError,
            FileNotFoundError,  # there is no such bucket
        )
        self._failed = exceptions.BaseError

    def create(self, name: str, data: bytes) -> bool:
        """See ``Client.create``."""
        import obstore

        try:
            obstore.put(self._store, name, data, mode="create", use_multipart=False)
        except self._exists:
            return False
        except self._refused as error:
            raise RefusedError(briefly(error)) from error
        except (self._failed, OSError) as error:
            if _is_conflict(error):
                return False
            raise UnclearError(briefly(error)) from error
        return True

    def get(self, name: str) -> bytes | None:
        """See ``Client.get``."""
        import obstore

        return self._asked(lambda: bytes(obstore.get(self._store, name).bytes()))

    def replace(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.replace``."""
        import obstore

        with self._told():
            obstore.put(self._store, name, data, use_multipart=False)

    def listed(self, folder: str) -> list[LargeObject]:
        """See ``LargeObjects.listed``."""
        import obstore

        found = self._asked(lambda: obstore.list(self._store, folder).collect())
        return [
            LargeObject(each["path"], each["size"], each["last_modified"].timestamp()) for each in found or ()
        ]

    def part(self, name: str, start: int, count: int) -> bytes | None:
        """See ``LargeObjects.part``."""
        import obstore

        return self._asked(lambda: bytes(obstore.get_range(self._store, name, start=start, length=count)))

    def keep_file(self, name: str, path: Path) -> None:
        """See ``LargeObjects.keep_file``: in parts, and not at all if one of them fails."""
        import obstore

        with self._told():
            obstore.put(self._store, name, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def remove(self, name: str) -> None:
        """See ``LargeObjects.remove``."""
        import obstore

        with self._told(), contextlib.suppress(FileNotFoundError):  # S3 says nothing, the others do
            obstore.delete(self._store, name)

    def _asked(self, question: Callable[[], _Answer]) -> _Answer | None:
        """What the store answers; None where it says that there is no such object."""
        try:
            return question()
        except FileNotFoundError as error:
            if is_without_bucket(error):
                raise FileNotFoundError(briefly(error)) from error
            return None
        except self._refused as error:
            raise PermissionError(briefly(error)) from error
        except (self._failed, OSError) as error:
            raise UnclearError(briefly(error)) from error

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._refused as error:
            raise RefusedError(briefly(error)) from error
        except (self._failed, OSError) as error:
            raise UnclearError(briefly(error)) from error


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


def _is_conflict(error: Exception) -> bool:
    """A 409: others are about to create the same object, and this request has not."""
    return "409 Conflict" in str(error)


def is_without_bucket(error: Exception) -> bool:
    """Whether not an object is missing, but the bucket."""
    return "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error)


def briefly(error: Exception) -> str:
    """An error's text without its debug output."""
    return str(error).split("\n\nDebug source:", maxsplit=1)[0].strip()


def _insistent(get: Callable[[str], bytes | None], name: str) -> bytes | None:
    """Of many requests some fail: not all of them are made again for that."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(UnclearError):
            return get(name)
    return get(name)


def _name(key: int) -> str:
    return f"log/{key:020d}.arrow"
