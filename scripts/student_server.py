"""transformers' own OpenAI-compatible server on the embedded student: a real server that really sees the images.

    pip install fastapi uvicorn openai     # what `transformers serve` wants beside transformers
    python scripts/student_server.py --port 8081

The model's name there is the name of its folder; the first line printed is the SPEC to evaluate.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import transformers
from transformers.cli.serve import Serve
from transformers.models.auto import modeling_auto

from safer_steer.embedded.build import ensure_student, register
from safer_steer.embedded.configuration import SteerVLMConfig
from safer_steer.embedded.modeling import SteerVLMForConditionalGeneration


def announce() -> None:
    """Let the server find the student: it looks a model's class up by name, among transformers' own."""
    register()
    name = SteerVLMForConditionalGeneration.__name__
    setattr(transformers, name, SteerVLMForConditionalGeneration)
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[SteerVLMConfig.model_type] = name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="where the student is built, or lies already")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = ensure_student(options.cache)
    announce()
    os.chdir(folder.parent)  # so that the model's name is the folder's, without a path of this machine
    print(f"openai:{folder.name}@http://127.0.0.1:{options.port}/v1", flush=True)
    Serve(force_model=folder.name, device="cpu", dtype="float32", host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
