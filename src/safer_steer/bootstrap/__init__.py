"""Stage II's data: red rewrites, blue answers, every turn is scored; what passes both thresholds teaches."""

from safer_steer.bootstrap.keeping import Dropped, DropReason, shortcoming
from safer_steer.bootstrap.pools import Pools, divide
from safer_steer.bootstrap.shelf import Shelf
from safer_steer.bootstrap.stage import bootstrap, forecast, scripts_for

__all__ = [
    "DropReason",
    "Dropped",
    "Pools",
    "Shelf",
    "bootstrap",
    "divide",
    "forecast",
    "scripts_for",
    "shortcoming",
]
