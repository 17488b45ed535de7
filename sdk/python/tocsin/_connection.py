"""Where the broker is and how to come back to it: shared by Worker and Publisher."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple, Union

DEFAULT_TARGET = "127.0.0.1:7420"


@dataclass(frozen=True)
class Tls:
    """TLS to the broker; paths of PEM files.

    ca_file              whom to trust; empty: the system's authorities, as gRPC finds them
    cert_file, key_file  our certificate, where the broker wants one (`tls.client_ca`)
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


@dataclass(frozen=True)
class Connection:
    """Resolved options of a connection. Times in seconds."""

    target: str
    token: str
    tls: Optional[Tls]
    backoff_min: float = 0.2
    backoff_max: float = 15.0
    # A broker that is silent is noticed within the sum of both, which is before it would give up
    # on us (`gone_after_ms`, 30 s): pings of the connection itself, answered below the broker.
    keepalive_every: float = 10.0
    keepalive_within: float = 10.0
    connect_within: float = 10.0
    welcome_within: float = 10.0
    goodbye_within: float = 5.0


def resolve(target: Optional[str], token: Optional[str],
            tls: Union[Tls, bool, None]) -> Connection:
    """Fills in TOCSIN_TARGET and TOCSIN_TOKEN. ValueError for what can never work."""
    target = target or os.environ.get("TOCSIN_TARGET") or DEFAULT_TARGET
    token = token if token is not None else os.environ.get("TOCSIN_TOKEN", "")
    if not all(" " <= character <= "~" for character in token):
        raise ValueError("the token has characters that cannot be sent (a line end?): "
                         "look at TOCSIN_TOKEN")
    if tls is True:
        tls = Tls()
    if tls is False:
        tls = None
    if tls is not None and bool(tls.cert_file) != bool(tls.key_file):
        raise ValueError("tls: cert_file and key_file go together")
    return Connection(target, token, tls)


def _read(path: str, what: str) -> Optional[bytes]:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise OSError(f"cannot read tls.{what} {path}: {error.strerror}") from error


def check(connection: Connection) -> None:
    """Whether a channel can be made at all. OSError if a TLS file cannot be read."""
    if connection.tls is not None:
        for what in ("ca_file", "cert_file", "key_file"):
            _read(getattr(connection.tls, what), what)


def new_channel(connection: Connection) -> Any:
    """A channel of its own connection. OSError if a TLS file cannot be read.

    Each attempt to connect takes a new one. In Python a channel does nothing while no call is
    under way; one that failed would fail the next call at once, with the error of the last attempt,
    and let the attempt that this begins run out of time.
    """
    import grpc  # type: ignore[import]

    options: List[Tuple[str, int]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.min_reconnect_backoff_ms", int(connection.connect_within * 1000)),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", int(connection.keepalive_every * 1000)),
        ("grpc.keepalive_timeout_ms", int(connection.keepalive_within * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if connection.tls is None:
        return grpc.insecure_channel(connection.target, options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(connection.tls.ca_file, "ca_file"),
        private_key=_read(connection.tls.key_file, "key_file"),
        certificate_chain=_read(connection.tls.cert_file, "cert_file"))
    return grpc.secure_channel(connection.target, credentials, options)


def metadata(connection: Connection, *more: Tuple[str, str]) -> List[Tuple[str, str]]:
    """What goes with every call."""
    token = [("authorization", f"Bearer {connection.token}")] if connection.token else []
    return [*token, *more]


@dataclass(frozen=True)
class Ended:
    """How a call ended: the name of its gRPC status and the broker's words."""

    code: str
    details: str

    def __str__(self) -> str:
        if self.code == "OK":
            return "the broker ended the stream"
        return f"{self.code}: {self.details}" if self.details else self.code


def ended(error: Any) -> Ended:
    """Of the RpcError that a call raised."""
    return Ended(error.code().name, error.details() or "")


class Backoff:
    """Exponential, with jitter over the upper half of each step. Not thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._min = connection.backoff_min
        self._max = connection.backoff_max
        self._step = self._min

    def next(self) -> float:
        """Seconds to wait now."""
        ceiling = self._step
        self._step = min(self._max, self._step * 2)
        return random.uniform(ceiling / 2, ceiling)

    def reset(self) -> None:
        self._step = self._min
