"""Inspect (`safer-steer[inspect]`): our suites as its tasks, our evaluations as its logs."""

from safer_steer.errors import ConfigError

try:
    import inspect_ai as inspect_ai
except ImportError as error:
    raise ConfigError(
        f"Inspect is not installed ({error.name})", hint="pip install 'safer-steer[inspect]', in a venv of its own"
    ) from error
