"""A span as the rest of the house sees it: what the decoder keeps of OTLP's `Span`, and who sent it.

Plain slots, no dataclass: a million of them are made a minute (a frozen dataclass costs 6 us, slots 0.4 us).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from receiver.core.usage.reading import Reading

#: What an attribute's AnyValue becomes: str, bool, int, float, bytes, list (arrayValue), dict (kvlistValue), None (empty AnyValue).
Value = str | bool | int | float | bytes | list | dict | None  # type: ignore[type-arg]  # recursive: list[Value], dict[str, Value]

#: Of a repeated key the first counts (the receiver's reading of "keys MUST be unique", opentelemetry-proto common.proto).
Attributes = tuple[tuple[str, Value], ...]

FLAG_HAS_IS_REMOTE: Final = 0x100  #: bit 8 of `flags`: the sender knows whether the parent is remote (trace.proto)
FLAG_IS_REMOTE: Final = 0x200  #: bit 9: the parent is in another process

SPAN_KIND_SERVER: Final = 2
SPAN_KIND_CLIENT: Final = 3
STATUS_CODE_ERROR: Final = 2


class Keys:
    """The keys of a span's attributes, in wire order: one object for all spans in which a Reader saw them.

    What depends on the keys alone is worked out once and found again by this object's identity: in 30 ns, where the keys
    must be gathered (0.4 us for a span of 15 attributes) to be looked up themselves. Equal keys may have several objects.
    """

    __slots__ = ("names",)

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names


class Source:
    """The resource and instrumentation scope of a batch of spans; one object is shared by all its spans.

    Equal sources are the same object as long as the decoder's bounded table remembers them, so never compare by identity alone.
    """

    __slots__ = ("attributes", "dropped_attributes", "process", "resource", "scope", "scope_version", "service")

    def __init__(
        self,
        *,
        resource: dict[str, Value],
        scope: str,
        scope_version: str,
        attributes: dict[str, Value] | None = None,
        dropped_attributes: int = 0,
    ) -> None:
        self.resource = resource  #: resource attributes, filtered to the wanted keys (`service.*` always kept)
        self.scope = scope  #: InstrumentationScope.name, "" when absent
        self.scope_version = scope_version
        self.attributes = attributes or {}  #: the scope's own attributes, wanted keys
        self.dropped_attributes = dropped_attributes  #: resource + scope `dropped_attributes_count`
        service = resource.get("service.name")
        self.service = service if isinstance(service, str) else ""
        instance = resource.get("service.instance.id")
        namespace = resource.get("service.namespace")
        #: which process sent it: `service.instance.id`, else namespace and name
        self.process = (
            instance if isinstance(instance, str) and instance else f"{namespace if isinstance(namespace, str) else ''}/{self.service}"
        )

    def __repr__(self) -> str:
        return f"Source({self.service!r}, {self.scope}@{self.scope_version})"


class Span:
    """One OTLP span, reduced to what counting, pricing and attribution read.

    Immutable after intake by convention: only `reading` and `keys` are written later (once, by `usage.Reader.read`).
    """

    __slots__ = (
        "attributes",
        "dropped_attributes",
        "end_unix_nano",
        "flags",
        "keys",
        "kind",
        "name",
        "parent_span_id",
        "reading",
        "received_unix_nano",
        "sampled",
        "size",
        "source",
        "span_id",
        "start_unix_nano",
        "status_code",
        "trace_id",
    )

    def __init__(  # noqa: PLR0917 -- by position: the decoder makes a million a minute, and keywords cost half as much again
        self,
        source: Source,
        trace_id: bytes,
        span_id: bytes,
        parent_span_id: bytes,
        name: str,
        kind: int,
        start_unix_nano: int,
        end_unix_nano: int,
        attributes: Attributes,
        flags: int,
        status_code: int,
        dropped_attributes: int,
        sampled: bool,
        size: int,
        received_unix_nano: int,
    ) -> None:
        self.source = source
        self.trace_id = trace_id  #: 16 bytes, not all zero
        self.span_id = span_id  #: 8 bytes, not all zero
        self.parent_span_id = parent_span_id  #: 8 bytes, or b"" for a root
        self.name = name
        self.kind = kind  #: OTLP SpanKind number
        self.start_unix_nano = start_unix_nano
        self.end_unix_nano = end_unix_nano
        self.attributes = attributes  #: only wanted keys, in wire order; pairs are shared between spans
        self.flags = flags
        self.status_code = status_code
        self.dropped_attributes = dropped_attributes  #: `dropped_attributes_count`
        self.sampled = sampled  #: `tracestate` carries a sampling threshold (`ot=th:`), so other traces were not sent
        self.size = size  #: accounted bytes in the window: an estimate of what this record holds in memory
        self.received_unix_nano = received_unix_nano  #: when its request was received; 0 offline (priced at its own start)
        self.reading: Reading | None = None  #: what the span says of a model call; set at intake by `usage.Reader.read`
        self.keys: Keys | None = None  #: those of its attributes; set together with `reading`

    @property
    def is_root(self) -> bool:
        """No parent at all."""
        return not self.parent_span_id

    @property
    def has_remote_parent(self) -> bool:
        """A parent that the sender says is in another process."""
        return bool(self.parent_span_id) and self.flags & (FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE) == FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE

    def __repr__(self) -> str:
        return f"Span({self.name!r}, {self.span_id.hex()}, {self.source.scope})"
