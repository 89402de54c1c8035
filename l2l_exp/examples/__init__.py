"""Worked examples of problems that are a user's own: an nn.Module, data and a loss, and a YAML."""
