"""What ranks keep when vectors are written smaller: recall@10 against float32, on real text.

    python -m benchmarks.quantization [--texts 900]

all-MiniLM-L6-v2 over docstrings of installed packages; a third of them are the queries. In one process,
without Ray. Bytes are tried with several ranges, in units of 1 / sqrt(dimensions): the service's is
`deployments.core.quantization.RANGE`. Calibrated ranges are the least and the largest component of each
dimension in a sample of the documents, as sentence-transformers takes them. Their codes are compared as
they are, which is what an index does, and decoded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sentence_transformers.util import quantize_embeddings

from benchmarks.common.reporting import parser, report
from deployments.core import quantization
from deployments.core.batch import Vectors
from deployments.core.engine.engine import TorchEngine
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.quantization import OutputDtype, quantized
from deployments.core.vectors import finished, normalized
from testing.docstrings import docstrings
from testing.encode_all import encode_all

MODEL = "all-MiniLM-L6-v2"
RANGES = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
BEST = 10
SAMPLES = (100, 300)
# from a code to the middle of what it stands for, in steps
_MIDDLE = {OutputDtype.INT8: np.float32(0.5), OutputDtype.UINT8: np.float32(-127.5)}


def vectors_of(texts: list[str]) -> Vectors:
    """Returns normalised float32 vectors."""
    files = find_model(MODEL)
    batch = describe(files.spec, files.folder).fast_tokenizer().tokenize(texts, truncate=True).batch
    engine = TorchEngine(files.spec, files.folder, "cpu", "float32")
    return finished(encode_all(engine, batch, 2_048), files.spec.dimension, normalize=True)


def readable(vectors: Vectors, dtype: OutputDtype) -> Vectors:
    """Returns the float32 vectors that a client can make of the codes."""
    codes = quantized(vectors, dtype)
    if dtype is OutputDtype.UBINARY:
        return np.unpackbits(codes, axis=1).astype(np.float32) * 2 - 1
    return normalized(codes.astype(np.float32) + _MIDDLE.get(dtype, np.float32(0)))


def as_they_are(vectors: Vectors, dtype: OutputDtype) -> Vectors:
    """Returns codes as an index compares them that knows nothing of their range."""
    return normalized(quantized(vectors, dtype).astype(np.float32))


def calibrated(vectors: Vectors, sample: Vectors) -> tuple[Vectors, Vectors]:
    """Returns the codes of calibrated bytes, and the float32 vectors that they stand for."""
    ranges = np.stack([sample.min(axis=0), sample.max(axis=0)])
    inside = np.clip(vectors, *ranges)  # beyond them, sentence-transformers' codes would overflow
    codes = np.asarray(quantize_embeddings(inside, "uint8", ranges), np.float32)
    decoded = ranges[0] + (codes + 0.5) * (ranges[1] - ranges[0]) / 255
    return normalized(codes - 127.5), normalized(decoded)


def best(queries: Vectors, documents: Vectors) -> npt.NDArray[np.intp]:
    """Returns the rows of each query's nearest documents."""
    return np.argsort(-(queries @ documents.T), axis=1)[:, :BEST]


def recall(exact: npt.NDArray[np.intp], found: npt.NDArray[np.intp]) -> float:
    """Returns the part of the exact neighbours that are found."""
    pairs = zip(exact, found, strict=True)
    return float(np.mean([len(set(one) & set(other)) / BEST for one, other in pairs]))


def measure(texts: int) -> None:
    """Encodes the texts once and prints a row for each way to write them."""
    vectors = vectors_of(docstrings(texts, longest_words=60))
    queries, documents = vectors[: texts // 3], vectors[texts // 3 :]
    exact = best(queries, documents)

    def kept(dtype: OutputDtype) -> str:
        found = best(readable(queries, dtype), readable(documents, dtype))
        return f"{recall(exact, found):.3f}"

    rows = [("float16", "", kept(OutputDtype.FLOAT16))]
    usual = quantization.RANGE
    for multiple in RANGES:
        quantization.RANGE = multiple
        rows.append(("int8", f"{multiple:g}", kept(OutputDtype.INT8)))
    quantization.RANGE = usual
    rows.append(("uint8", f"{usual:g}", kept(OutputDtype.UINT8)))
    for dtype in (OutputDtype.INT8, OutputDtype.UINT8):
        found = best(as_they_are(queries, dtype), as_they_are(documents, dtype))
        rows.append((f"{dtype}, codes as they are", f"{usual:g}", f"{recall(exact, found):.3f}"))
    for count in SAMPLES:
        sides = zip(*(calibrated(v, documents[:count]) for v in (queries, documents)), strict=True)
        for (one, other), how in zip(sides, ("codes as they are", "decoded"), strict=True):
            kept_here = f"{recall(exact, best(one, other)):.3f}"
            rows.append((f"int8, calibrated on {count}, {how}", "each dimension's", kept_here))
    rows.append(("binary and ubinary, both sides", "", kept(OutputDtype.UBINARY)))
    mixed = best(queries, readable(documents, OutputDtype.UBINARY))
    rows.append(("binary documents, float32 queries", "", f"{recall(exact, mixed):.3f}"))
    report("quantization", ("WRITTEN AS", "RANGE", f"RECALL@{BEST}"), rows)


def main() -> None:
    """Reads the command line and measures."""
    arguments = parser("quantization", __doc__)
    arguments.add_argument("--texts", type=int, default=900)
    measure(arguments.parse_args().texts)


if __name__ == "__main__":
    main()
