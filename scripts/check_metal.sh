#!/usr/bin/env bash
# check_metal.sh STAND_IN: translates every kernel to Metal's language and compiles the texts with
# clang++ against STAND_IN, a folder with a stand-in for Apple's library. Numbers without a suffix
# are f32 in Metal.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
MINERVA_MSL_DIR=$folder cargo test --quiet -p minerva -p minerva-gpu --lib every_kernel_translates
n=0
for file in "$folder"/*.metal; do
  clang++ -target aarch64-linux-gnu -x c++ -std=c++17 -Wno-everything -Xclang -cl-single-precision-constant \
    -I "$here/metal" -I "$1" -O2 -ffast-math -fno-vectorize -fno-slp-vectorize -S -emit-llvm -o "$folder/ir" "$file"
  # An array that stays in memory is slow; the kernels are written so that there is none. The stand-in's
  # own matrices are arrays.
  if [[ $file != */mul_mm_coop_* ]] && grep ' alloca \[' "$folder/ir"; then
    echo "$file: has an array in memory"
    exit 1
  fi
  n=$((n + 1))
done
((n > 200))
echo "$n kernels compile"
