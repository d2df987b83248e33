"""The contract, the table of names, and one module per published method."""
