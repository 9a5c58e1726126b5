"""Round schedules: when to select, how much, when to rescore, and the cost model for it."""
