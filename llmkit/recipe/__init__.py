"""Recipe: the typed form of a run, and the YAML it is read from."""
