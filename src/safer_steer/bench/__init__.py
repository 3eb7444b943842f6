"""Evaluation: suites, the static and adaptive protocols, and what the verdicts add up to."""
