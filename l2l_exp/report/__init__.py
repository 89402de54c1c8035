"""From evaluation records to tables and figures (layer 3)."""
