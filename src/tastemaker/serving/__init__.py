"""The service: an HTTP API over finished runs, an event store, and a page to look at."""
