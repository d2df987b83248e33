"""Methods that learn from a knowledge graph around the items."""
