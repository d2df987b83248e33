"""Methods built on language models."""
