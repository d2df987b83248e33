"""Methods that learn what comes next in a history."""
