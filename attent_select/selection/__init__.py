"""The teaching subset: who is eligible, how many, and exactly which rows."""
