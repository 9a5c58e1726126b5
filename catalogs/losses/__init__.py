"""The loss catalog: parts, snapshots that name them, and merging them."""
