"""The wire: OTLP over gRPC and HTTP, protobuf and JSON, from bytes to Spans and from errors to status codes.

`inflate` bounds what a compressed body may become, `decode` and `json` turn a body into one `Export` of Spans.
"""
