"""Built-in evaluation sets: sources, rules, and the blind reader."""
