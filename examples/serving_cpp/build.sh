#!/usr/bin/env bash
# Compiles score.cpp against the libtorch of the installed torch (pip's is one): bash build.sh OUT. PYTHON and CXX can be set.
set -euo pipefail
torch=$("${PYTHON:-python3}" -c 'import torch; print(torch.__path__[0])')
"${CXX:-g++}" -std=c++20 -O1 "$(dirname "$0")/score.cpp" -o "$1" -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" \
  -L"$torch/lib" -Wl,-rpath,"$torch/lib" -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10 -ldl
