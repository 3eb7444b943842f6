"""Stages II and III on clusters: stock verl (Ray, FSDP2, vLLM) driven through its plugin entry point.

Nothing here is imported by the rest of the package, and `settings`, `data` and `tutors` need no verl. See docs/verl.md.
"""

VERL_VERSION = "0.9.1"
"""The verl this was written against; another version is refused, because much of what is used here is not stable."""

AGENT = "safer_steer"
"""The name of the agent loop in verl's registry and in the data's `agent_name` column."""
