"""First steps: the configuration's JSON schema, examples of it, and a new one for given data."""
