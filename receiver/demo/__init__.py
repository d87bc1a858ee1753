"""`spantoll demo`: a daemon of its own, real captures through the real wire, and its numbers held against the truth.

The captures are exports of real agent frameworks; the truth beside them is what the model server behind them logged, priced by
an independent list. The daemon runs as a process of its own on free ports; these modules are its clients, as any exporter, any
scraper and any customer would be.

First act (`player`): every capture over its own transport, and /metrics at the end. Second act (`paying`): credit runs out, an export
is refused, an invoice is paid, the same export is taken, and the books are checked.
"""
