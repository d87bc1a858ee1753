"""Where the books are kept, behind the protocols of `core.journal`."""
