"""Methods that learn from what items look and read like."""
