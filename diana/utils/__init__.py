"""Words, wires and tools that endpoints are made of."""
