"""What Spantoll costs: reported, never gated. Figures of one run on one machine compare with each other and with nothing else.

    python -m tests.bench.chain     in this process: decode alone, the whole chain, every stage; --profile for the top ten functions
    python -m tests.bench.wire      the daemon as a process, over gRPC (both servers) and HTTP: CPU, memory, stalls of its loop
    python -m tests.bench.memory    what a million open spans hold

Run them at the root of a clone, with the extra `test` installed (and `fast`, to measure what it gives). Each has --help, prints tables and
with --json FILE writes all its figures. Each also holds what the metrics show against what was acknowledged, to the token and the
pico-USD, and ends with exit code 1 when they differ: a fast number that is wrong is worth nothing.

`subjects.toml` describes the daemon to a script that runs other receivers beside it, under the same load.
"""
