"""Who is it: which account a credential names, and how a listener proves itself to its clients."""
