"""How well a model verifies faces."""
