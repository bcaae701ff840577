"""What a network costs, by its configuration alone: it is built without memory and without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deployments.core.errors import UnsupportedModel

# bytes for each token of a pass: four hidden and three intermediate tensors in two bytes each, and the
# last hidden one in four (docs/configuration.md, "How to size")
_HIDDEN_BYTES, _INTERMEDIATE_BYTES = 12, 6


@dataclass(frozen=True)
class Cost:
    """A network's parameters, and the bytes that a token of a pass takes in half precision."""

    parameters: int
    bytes_per_token: int | None

    def weights_gb(self, bytes_each: int) -> float:
        """Returns the weights in gigabytes, at so many bytes for each parameter."""
        return self.parameters * bytes_each / 1e9


def cost_of(folder: Path) -> Cost:
    """Returns the cost of the transformer in ``folder``.

    Raises UnsupportedModel if transformers does not know it.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            network = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:  # any, from any of a hundred classes
        raise UnsupportedModel(
            f"transformers cannot build {folder}/config.json: {error}"
        ) from error
    hidden, wide = (getattr(config, name, None) for name in ("hidden_size", "intermediate_size"))
    per_token = _HIDDEN_BYTES * hidden + _INTERMEDIATE_BYTES * wide if hidden and wide else None
    return Cost(sum(parameter.numel() for parameter in network.parameters()), per_token)
