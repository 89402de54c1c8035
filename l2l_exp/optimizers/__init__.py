"""Update rules: learned ones, and hand-designed baselines behind the same interface (layer 0)."""
