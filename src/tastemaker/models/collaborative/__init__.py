"""Methods that learn who took what, without an order."""
