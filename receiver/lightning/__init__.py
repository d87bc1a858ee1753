"""Money in: what a Lightning node is asked, the wallet for trying things out, and the watcher that credits what was paid."""
