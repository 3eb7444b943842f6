"""What lets a whole verl run happen on a CPU: for tests alone, loaded by `VERL_USE_EXTERNAL_MODULES=cpu_shims`.

verl knows GPUs and NPUs. Here are a platform without either, a rollout server that is a transformers model, the
processor that needs no torchvision, and one list of communication backends that names no device twice.
"""

from __future__ import annotations

import asyncio
import os
import sys
import types
from contextlib import contextmanager
from typing import Any

import numpy as np
import tiny_qwen
import torch
import transformers
from transformers import AutoProcessor, Qwen2_5_VLConfig
from verl.plugin.platform import PlatformBase, PlatformRegistry

# --- the processor, under the name by which verl looks for it ---------------------------------------------------
transformers.models.qwen2_5_vl.processing_qwen2_5_vl.Qwen2_5_VLProcessor = tiny_qwen.Qwen2_5_VLProcessor
transformers.models.qwen2_5_vl.Qwen2_5_VLProcessor = tiny_qwen.Qwen2_5_VLProcessor
transformers.Qwen2_5_VLProcessor = tiny_qwen.Qwen2_5_VLProcessor
AutoProcessor.register(Qwen2_5_VLConfig, tiny_qwen.Qwen2_5_VLProcessor, exist_ok=True)


def _fetch_image(image: dict[str, Any], **_: Any) -> Any:
    return image["image"].convert("RGB")


if "qwen_vl_utils" not in sys.modules:  # the real one imports torchvision, which has no CPU build
    pictures = types.ModuleType("qwen_vl_utils")
    pictures.fetch_image = _fetch_image
    sys.modules["qwen_vl_utils"] = pictures


# --- the platform ------------------------------------------------------------------------------------------------
@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """Two cores and no accelerator. Ray is told of pretended GPUs, so that verl's placement works."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = torch.cpu

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"  # what tensors are moved to: a number would name an accelerator

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str):
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


for name, value in {
    "empty_cache": lambda: None, "memory_allocated": lambda *_: 0, "memory_reserved": lambda *_: 0,
    "max_memory_allocated": lambda *_: 0, "max_memory_reserved": lambda *_: 0,
    "reset_peak_memory_stats": lambda *_: None,
    "mem_get_info": lambda *_: (2**34, 2**34), "get_device_name": lambda *_: "cpu", "manual_seed": torch.manual_seed,
    "get_rng_state": lambda *_: torch.get_rng_state(), "set_rng_state": lambda state, *_: torch.set_rng_state(state),
    "ipc_collect": lambda: None,
}.items():  # fmt: skip
    if not hasattr(torch.cpu, name):
        setattr(torch.cpu, name, value)

torch.Tensor.pin_memory = lambda self, *_: self  # the reference policy is kept in pinned memory: there is no other

_init = torch.distributed.init_process_group


def _once(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
    """`cpu:gloo,cpu:gloo` names the CPU twice, which torch refuses."""
    parts = backend.split(",") if backend else []
    return _init(",".join(dict.fromkeys(parts)) or None, *args, **kwargs)


torch.distributed.init_process_group = _once

if os.environ.get("WORLD_SIZE") is None or "RAY_LOCAL_WORLD_SIZE" in os.environ:
    import ray
    from verl.workers.rollout import base
    from verl.workers.rollout.base import BaseRollout
    from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

    class Server:
        """A rollout server: one tiny model, one prompt at a time."""

        def __init__(self, path: str) -> None:
            self.model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
                path, attn_implementation="eager"
            ).eval()
            self.processor = tiny_qwen.Qwen2_5_VLProcessor.from_pretrained(path)
            self.version, self.lock = 0, asyncio.Lock()

        async def generate(self, request_id, *, prompt_ids, sampling_params, image_data=None, **_) -> TokenOutput:
            async with self.lock:
                return await asyncio.to_thread(self._write, prompt_ids, sampling_params, image_data)

        def _write(self, prompt_ids, sampling, image_data) -> TokenOutput:
            ids = torch.tensor([prompt_ids])
            extra = self.processor.image_processor(image_data, return_tensors="pt") if image_data else {}
            bias = torch.zeros(self.model.config.get_text_config().vocab_size)
            for token, value in sampling["logit_bias"].items():
                bias[int(token)] = value
            with torch.no_grad():
                out = self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    mm_token_type_ids=(ids == self.processor.image_token_id).long(),
                    **extra,
                    do_sample=True,
                    temperature=sampling["temperature"],
                    top_k=0,
                    min_new_tokens=min(4, sampling["max_tokens"]),  # random weights may say nothing, which is no answer
                    max_new_tokens=sampling["max_tokens"],
                    eos_token_id=sampling["stop_token_ids"],
                    logits_processor=[lambda _, scores: scores + bias],
                    return_dict_in_generate=True,
                    output_scores=True,
                )
            written = out.sequences[0, len(prompt_ids) :].tolist()
            rows = [torch.log_softmax(score[0], -1) for score in out.scores]
            logprobs = [float(row[token]) for row, token in zip(rows, written, strict=True)]
            return TokenOutput(
                token_ids=written,
                log_probs=logprobs,
                stop_reason="completed",
                extra_fields={"global_steps": self.version},
            )

        async def load(self, weights: dict[str, np.ndarray], version: int) -> int:
            state = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
            missing, unexpected = self.model.load_state_dict(state, strict=False)
            assert not missing and not unexpected, (missing, unexpected)
            self.version = version
            return len(state)

        async def nothing(self, *_: Any, **__: Any) -> None: ...

        wake_up = sleep = abort_all_requests = resume_generation = clear_kv_cache = nothing
        release_kv_cache = resume_kv_cache = start_profile = stop_profile = nothing

    class Replica(RolloutReplica):
        async def launch_servers(self) -> None:
            path = self.model_config.path
            server = ray.remote(Server).options(name=f"cpu_server_{self.replica_rank}", num_cpus=0).remote(path)
            self.servers, self._server_handle = [server], server
            self._server_address = f"cpu:{self.replica_rank}"

    class Adapter(BaseRollout):
        """The trainer's end: hands the weights over as arrays."""

        def __init__(self, config, model_config, device_mesh, replica_rank: int = -1) -> None:
            super().__init__(config, model_config, device_mesh)
            self.rank = int(os.environ["RANK"])

        async def resume(self, tags) -> None: ...

        async def release(self) -> None: ...

        async def update_weights(self, weights, wire_format="named_tensors", global_steps=None, **_) -> None:
            state = {name: tensor.detach().float().cpu().numpy() for name, tensor in weights}
            await ray.get_actor(f"cpu_server_{self.rank}").load.remote(state, global_steps)

    RolloutReplicaRegistry.register("cpu", lambda: Replica)
    base._ROLLOUT_REGISTRY[("cpu", "async")] = f"{__name__}.Adapter"
