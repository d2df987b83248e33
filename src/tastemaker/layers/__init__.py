"""Building blocks of networks: attention, recurrence, propagation, exact top-k."""
