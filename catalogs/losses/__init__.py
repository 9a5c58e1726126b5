"""Loss catalog: parts, the snapshots that reference them, and merging of losses."""
