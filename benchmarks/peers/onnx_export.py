"""Exports a transformer to ONNX, for the peers that run on ONNX Runtime.

    python onnx_export.py FOLDER

reads the model in FOLDER and writes ``FOLDER/onnx/model.onnx``. It needs only torch, transformers
and onnx, so that it also runs in a peer's own virtual environment.
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
        # plain attention: converters optimise it better than PyTorch's fused attention
        model = AutoModel.from_pretrained(folder, attn_implementation="eager")
        self._model = model.float().eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the last hidden state, ``(texts, tokens, dimension)``."""
        hidden: Tensor = self._model(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return hidden


@torch.inference_mode()
def export(folder: Path, file: Path) -> Path:
    """Writes the model in ``folder`` to ``file``, for any number of texts and tokens."""
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
    folder = Path(sys.argv[1])
    (folder / "onnx").mkdir(exist_ok=True)
    print(export(folder, folder / "onnx" / "model.onnx"))
