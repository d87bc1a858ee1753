"""The pure middle: from Spans to Charges. Standard library and `errors` only; no clock, no I/O, no logging, no randomness."""
