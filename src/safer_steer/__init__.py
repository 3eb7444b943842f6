"""SaFeR-Steer: multi-turn safety alignment of vision-language models, end to end."""

__version__ = "0.1.0"
