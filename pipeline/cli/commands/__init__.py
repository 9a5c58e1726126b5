"""Commands, a module for each or for two that belong together."""
