"""Stage I: from single-turn seeds to multi-turn scripts (probe, expand, attack, perturb, filter, de-duplicate)."""
