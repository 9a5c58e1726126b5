"""When to select, how much, when to score again, and what that costs."""
