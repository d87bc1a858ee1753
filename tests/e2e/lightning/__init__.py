"""Real nodes: btcd and two LND nodes joined by a channel, and an LNbits server; nothing here is a stand-in."""
