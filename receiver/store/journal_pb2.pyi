# mypy: disable-error-code="type-arg"
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NONE: _ClassVar[Kind]
    STRING: _ClassVar[Kind]
    INTEGER: _ClassVar[Kind]
    DOUBLE: _ClassVar[Kind]
    FALSE: _ClassVar[Kind]
    TRUE: _ClassVar[Kind]
    OTHER: _ClassVar[Kind]
NONE: Kind
STRING: Kind
INTEGER: Kind
DOUBLE: Kind
FALSE: Kind
TRUE: Kind
OTHER: Kind

class Accepted(_message.Message):
    __slots__ = ("transport", "sources", "trace_ids", "begins", "texts", "attribute_keys", "attribute_kinds", "strings", "integers", "doubles", "others", "traces", "span_ids", "parents", "parent_ids", "span_sources", "names", "kinds", "start_unix_nano", "starts", "durations", "flags", "status_codes", "dropped_attributes", "sampled", "sizes", "attribute_counts", "attributes")
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    TRACE_IDS_FIELD_NUMBER: _ClassVar[int]
    BEGINS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_KEYS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_KINDS_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    TRACES_FIELD_NUMBER: _ClassVar[int]
    SPAN_IDS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    PARENT_IDS_FIELD_NUMBER: _ClassVar[int]
    SPAN_SOURCES_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    DURATIONS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    STATUS_CODES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    transport: str
    sources: _containers.RepeatedScalarFieldContainer[bytes]
    trace_ids: bytes
    begins: _containers.RepeatedScalarFieldContainer[bool]
    texts: _containers.RepeatedScalarFieldContainer[str]
    attribute_keys: _containers.RepeatedScalarFieldContainer[int]
    attribute_kinds: _containers.RepeatedScalarFieldContainer[Kind]
    strings: _containers.RepeatedScalarFieldContainer[int]
    integers: _containers.RepeatedScalarFieldContainer[int]
    doubles: _containers.RepeatedScalarFieldContainer[float]
    others: _containers.RepeatedScalarFieldContainer[bytes]
    traces: _containers.RepeatedScalarFieldContainer[int]
    span_ids: bytes
    parents: _containers.RepeatedScalarFieldContainer[int]
    parent_ids: bytes
    span_sources: _containers.RepeatedScalarFieldContainer[int]
    names: _containers.RepeatedScalarFieldContainer[int]
    kinds: _containers.RepeatedScalarFieldContainer[int]
    start_unix_nano: int
    starts: _containers.RepeatedScalarFieldContainer[int]
    durations: _containers.RepeatedScalarFieldContainer[int]
    flags: _containers.RepeatedScalarFieldContainer[int]
    status_codes: _containers.RepeatedScalarFieldContainer[int]
    dropped_attributes: _containers.RepeatedScalarFieldContainer[int]
    sampled: _containers.RepeatedScalarFieldContainer[bool]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    attribute_counts: _containers.RepeatedScalarFieldContainer[int]
    attributes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, transport: _Optional[str] = ..., sources: _Optional[_Iterable[bytes]] = ..., trace_ids: _Optional[bytes] = ..., begins: _Optional[_Iterable[bool]] = ..., texts: _Optional[_Iterable[str]] = ..., attribute_keys: _Optional[_Iterable[int]] = ..., attribute_kinds: _Optional[_Iterable[_Union[Kind, str]]] = ..., strings: _Optional[_Iterable[int]] = ..., integers: _Optional[_Iterable[int]] = ..., doubles: _Optional[_Iterable[float]] = ..., others: _Optional[_Iterable[bytes]] = ..., traces: _Optional[_Iterable[int]] = ..., span_ids: _Optional[bytes] = ..., parents: _Optional[_Iterable[int]] = ..., parent_ids: _Optional[bytes] = ..., span_sources: _Optional[_Iterable[int]] = ..., names: _Optional[_Iterable[int]] = ..., kinds: _Optional[_Iterable[int]] = ..., start_unix_nano: _Optional[int] = ..., starts: _Optional[_Iterable[int]] = ..., durations: _Optional[_Iterable[int]] = ..., flags: _Optional[_Iterable[int]] = ..., status_codes: _Optional[_Iterable[int]] = ..., dropped_attributes: _Optional[_Iterable[int]] = ..., sampled: _Optional[_Iterable[bool]] = ..., sizes: _Optional[_Iterable[int]] = ..., attribute_counts: _Optional[_Iterable[int]] = ..., attributes: _Optional[_Iterable[int]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("resource", "scope", "scope_version", "attributes", "dropped_attributes")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    resource: _containers.RepeatedCompositeFieldContainer[KeyValue]
    scope: str
    scope_version: str
    attributes: _containers.RepeatedCompositeFieldContainer[KeyValue]
    dropped_attributes: int
    def __init__(self, resource: _Optional[_Iterable[_Union[KeyValue, _Mapping]]] = ..., scope: _Optional[str] = ..., scope_version: _Optional[str] = ..., attributes: _Optional[_Iterable[_Union[KeyValue, _Mapping]]] = ..., dropped_attributes: _Optional[int] = ...) -> None: ...

class KeyValue(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: AnyValue
    def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AnyValue, _Mapping]] = ...) -> None: ...

class AnyValue(_message.Message):
    __slots__ = ("string_value", "bool_value", "int_value", "double_value", "array_value", "kvlist_value", "bytes_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    ARRAY_VALUE_FIELD_NUMBER: _ClassVar[int]
    KVLIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    BYTES_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    bool_value: bool
    int_value: int
    double_value: float
    array_value: ArrayValue
    kvlist_value: KeyValueList
    bytes_value: bytes
    def __init__(self, string_value: _Optional[str] = ..., bool_value: _Optional[bool] = ..., int_value: _Optional[int] = ..., double_value: _Optional[float] = ..., array_value: _Optional[_Union[ArrayValue, _Mapping]] = ..., kvlist_value: _Optional[_Union[KeyValueList, _Mapping]] = ..., bytes_value: _Optional[bytes] = ...) -> None: ...

class ArrayValue(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[AnyValue]
    def __init__(self, values: _Optional[_Iterable[_Union[AnyValue, _Mapping]]] = ...) -> None: ...

class KeyValueList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[KeyValue]
    def __init__(self, values: _Optional[_Iterable[_Union[KeyValue, _Mapping]]] = ...) -> None: ...

class Closed(_message.Message):
    __slots__ = ("trace_ids", "generations", "spans", "triggers", "charged_span_ids", "charged_traces", "counters", "missing")
    TRACE_IDS_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    TRIGGERS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_SPAN_IDS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_TRACES_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    trace_ids: bytes
    generations: _containers.RepeatedScalarFieldContainer[int]
    spans: _containers.RepeatedScalarFieldContainer[int]
    triggers: _containers.RepeatedScalarFieldContainer[str]
    charged_span_ids: bytes
    charged_traces: _containers.RepeatedScalarFieldContainer[int]
    counters: _containers.RepeatedCompositeFieldContainer[Counter]
    missing: _containers.RepeatedCompositeFieldContainer[Missing]
    def __init__(self, trace_ids: _Optional[bytes] = ..., generations: _Optional[_Iterable[int]] = ..., spans: _Optional[_Iterable[int]] = ..., triggers: _Optional[_Iterable[str]] = ..., charged_span_ids: _Optional[bytes] = ..., charged_traces: _Optional[_Iterable[int]] = ..., counters: _Optional[_Iterable[_Union[Counter, _Mapping]]] = ..., missing: _Optional[_Iterable[_Union[Missing, _Mapping]]] = ...) -> None: ...

class Counter(_message.Message):
    __slots__ = ("name", "labels", "amount")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    amount: int
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., amount: _Optional[int] = ...) -> None: ...

class Missing(_message.Message):
    __slots__ = ("trace_id", "span_id", "reason", "model", "start_unix_nano")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    trace_id: bytes
    span_id: bytes
    reason: str
    model: str
    start_unix_nano: int
    def __init__(self, trace_id: _Optional[bytes] = ..., span_id: _Optional[bytes] = ..., reason: _Optional[str] = ..., model: _Optional[str] = ..., start_unix_nano: _Optional[int] = ...) -> None: ...
