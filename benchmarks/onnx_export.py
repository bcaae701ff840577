"""A transformer's token vectors as an ONNX model, for the peers that run on ONNX Runtime.

    python onnx_export.py FOLDER

writes ``FOLDER/onnx/model.onnx``. Needs torch, transformers and onnx alone: it runs in the peer's own
virtual environment, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor


class TokenVectors(torch.nn.Module):
    """Token vectors (texts, tokens, dimension) from ids and mask (texts, tokens), in float32."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        super().__init__()
        # plain attention: the converters make more of it than of PyTorch's fused one
        model = AutoModel.from_pretrained(folder, attn_implementation="eager")
        self._model = model.float().eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self._model(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return hidden


@torch.inference_mode()
def export(folder: Path, file: Path) -> Path:
    """Writes the model in ``folder`` to ``file``; texts and tokens may be any number."""
    example = torch.ones(2, 8, dtype=torch.long)
    inputs, output = ["input_ids", "attention_mask"], "last_hidden_state"
    torch.onnx.export(
        TokenVectors(folder),
        (example, example),
        str(file),
        dynamo=False,
        opset_version=17,
        input_names=inputs,
        output_names=[output],
        dynamic_axes={name: {0: "texts", 1: "tokens"} for name in (*inputs, output)},
    )
    return file


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "onnx").mkdir(exist_ok=True)
    print(export(target, target / "onnx" / "model.onnx"))
