"""One recipe drives every stage: YAML, dotted overrides, unknown keys rejected, every limit named once."""

from safer_steer.config.data import (
    BootstrapConfig,
    BudgetConfig,
    ConstructConfig,
    SeedSource,
    SplitConfig,
    TurnRange,
)
from safer_steer.config.evaluation import (
    CacheConfig,
    EvalConfig,
    PanelConfig,
    Seats,
)
from safer_steer.config.recipe import (
    DEFAULT_ENDPOINT,
    Recipe,
    apply_override,
    load_recipe,
    recipe_from,
)
from safer_steer.config.sections import (
    Positive,
    Share,
)
from safer_steer.config.training import (
    Dtype,
    GrpoConfig,
    LoraConfig,
    OldPolicy,
    Part,
    SftConfig,
    SftEngine,
    Start,
)

__all__ = [
    "DEFAULT_ENDPOINT",
    "BootstrapConfig",
    "BudgetConfig",
    "CacheConfig",
    "ConstructConfig",
    "Dtype",
    "EvalConfig",
    "GrpoConfig",
    "LoraConfig",
    "OldPolicy",
    "PanelConfig",
    "Part",
    "Positive",
    "Recipe",
    "Seats",
    "SeedSource",
    "SftConfig",
    "SftEngine",
    "Share",
    "SplitConfig",
    "Start",
    "TurnRange",
    "apply_override",
    "load_recipe",
    "recipe_from",
]
