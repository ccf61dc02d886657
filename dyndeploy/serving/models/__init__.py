"""Models that answer requests: sessions, batching, self-test, reloading. No protocol is known here."""
