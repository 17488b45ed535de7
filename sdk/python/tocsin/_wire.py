"""The protocol's messages, from the descriptors that protoc made of proto/ at build time.

They live in a descriptor pool of their own: Python's `io` hides the package io.cloudevents, and a
program may well have other code that registers the same names in the default pool.

The messages are typed Any: the protobuf package of Debian has no type information.
"""

from __future__ import annotations

import pkgutil
from typing import Any

from google.protobuf import (  # type: ignore[import]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

_FILE = "_protocol.binpb"

ATTACH = "/tocsin.v1.Worker/Attach"
PUBLISH_STREAM = "/tocsin.v1.Publisher/PublishStream"
PROTOCOL = 1


def _load() -> Any:
    try:
        encoded = pkgutil.get_data(__package__, _FILE)
    except OSError:
        encoded = None
    if encoded is None:
        raise ImportError(
            f"tocsin/{_FILE} is missing. The build makes it: run `make build`, then put "
            "build/sdk/python before sdk/python on PYTHONPATH, or install build/sdk/python with pip"
        )
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(encoded).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool = _load()
_factory = None if hasattr(message_factory, "GetMessageClass") else message_factory.MessageFactory(
    _pool)


def message_class(name: str) -> Any:
    """The class of a message by its full name."""
    descriptor = _pool.FindMessageTypeByName(name)
    if _factory is None:
        return message_factory.GetMessageClass(descriptor)
    return _factory.GetPrototype(descriptor)


CloudEventMessage = message_class("io.cloudevents.v1.CloudEvent")
WorkerFrame = message_class("tocsin.v1.WorkerFrame")
BrokerFrame = message_class("tocsin.v1.BrokerFrame")
Answer = message_class("tocsin.v1.Answer")
PublishRequest = message_class("tocsin.v1.PublishRequest")
PublishResponse = message_class("tocsin.v1.PublishResponse")


def clean_text(text: str, bytes_max: int = 4096) -> str:
    """The text as valid UTF-8 of at most `bytes_max` bytes.

    A protobuf string must be, or the broker ends the stream, and an error message may be anything.
    """
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > bytes_max:
        encoded = encoded[:bytes_max]
    return encoded.decode("utf-8", "ignore")
