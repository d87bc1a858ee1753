"""The configuration: a frozen dataclass a section, read once at start from defaults < file < environment < `--set`.

`listening`, `credit` and `sections` list every key; `load` reads them and reports all that is wrong at once; `check` knows what cannot
go together; `text` writes them back. Units: durations are seconds (float), sizes are bytes (int), moments are Unix nanoseconds (int).
"""

from receiver.config.check import listeners
from receiver.config.credit import Credit, Lightning, LightningLnbits, LightningLnd, Privacy
from receiver.config.endpoint import Endpoint, ip_address, is_loopback, parse_endpoint
from receiver.config.fields import as_table
from receiver.config.listening import Access, AccessKey, Customer, Operator, OperatorKey, Otlp, OtlpGrpc, OtlpHttp, Tls
from receiver.config.load import load, paths
from receiver.config.sections import (
    Attribution,
    Config,
    Counting,
    Log,
    Metrics,
    PriceOverride,
    Prices,
    Shutdown,
    Store,
    Usage,
    UsageScope,
    Window,
)
from receiver.config.text import commented, effective
from receiver.config.units import format_duration, format_size, parse_duration, parse_size
from receiver.config.urls import base_url
from receiver.errors import ConfigError

__all__ = [
    "Access",
    "AccessKey",
    "Attribution",
    "Config",
    "ConfigError",
    "Counting",
    "Credit",
    "Customer",
    "Endpoint",
    "Lightning",
    "LightningLnbits",
    "LightningLnd",
    "Log",
    "Metrics",
    "Operator",
    "OperatorKey",
    "Otlp",
    "OtlpGrpc",
    "OtlpHttp",
    "PriceOverride",
    "Prices",
    "Privacy",
    "Shutdown",
    "Store",
    "Tls",
    "Usage",
    "UsageScope",
    "Window",
    "as_table",
    "base_url",
    "commented",
    "effective",
    "format_duration",
    "format_size",
    "ip_address",
    "is_loopback",
    "listeners",
    "load",
    "parse_duration",
    "parse_endpoint",
    "parse_size",
    "paths",
]
