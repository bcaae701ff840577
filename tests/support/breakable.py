"""The service with an engine that breaks: some texts kill its process, some make a pass hang, and some
make every later pass fail.

    import_path: tests.support.breakable:build

Each death or hanging pass adds a line to ``deaths.log`` in the model's folder.
"""

import os
import signal
import threading
from pathlib import Path

from ray.serve import Application

from deployments.app import graph
from deployments.client.preprocessing import load_preprocessor
from deployments.config.schema import AppArgs, Limits, ModelConfig
from deployments.core.batch import TokenBatch, Vectors
from deployments.replica.loaded_model import LoadedModel
from testing.hashing import HashingEncoder

# what a text does if it ends with these words
POISON = "end this process"
SLEEP = "sleep for ever"
BREAK = "break the engine"


class Breakable(HashingEncoder):
    """The hashing replica with short patience for passes that hang."""

    wedged_after_s = 2.0

    def load(self, config: ModelConfig, limits: Limits) -> LoadedModel:
        """Returns the model, with a forward pass that does what the words above say."""
        model = super().load(config, limits)
        tokenizer = load_preprocessor(config).tokenizer
        ends = [tokenizer.tokenize((t,)).batch.ids.tolist()[1:] for t in (POISON, SLEEP, BREAK)]
        assert config.path is not None
        forward, deaths = model.engine.forward, Path(config.path) / "deaths.log"
        broken = threading.Event()

        def breaking(batch: TokenBatch) -> Vectors:
            texts = [batch.text(row).tolist() for row in range(len(batch))]
            kills, hangs, breaks = (any(t[-len(e) :] == e for t in texts) for e in ends)
            if kills or hangs or breaks:
                with deaths.open("a") as file:
                    file.write(f"{os.getpid()} of {len(texts)} texts\n")
            if kills:
                os.kill(os.getpid(), signal.SIGKILL)
            if hangs:
                threading.Event().wait()
            if breaks:
                broken.set()
            if broken.is_set():
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return forward(batch)

        model.engine.forward = breaking
        return model


def build(args: AppArgs) -> Application:
    """As `deployments.app.build`."""
    return graph(args, Breakable)
