#!/bin/sh
# The whole family from nothing on one GPU: both bases at once, books and decoders as soon as a base is there.
#   recipes/gpu/train.sh OUT RECOGNIZER.onnx VAL DATA DATA
# Folders or zips of faces, as many DATA as the recipes' [data] weights. Checkpoints: OUT/face-33/decoder,
# OUT/face-65/decoder, OUT/face-129/decoder; logs beside them. Call it again to go on after an interruption.
set -eu
out=$1 recognizer=$2 val=$3 here=$(dirname "$0")
shift 3
for source in "$@"; do
    set -- "$@" --data "$source"
    shift
done
mkdir -p "$out"

train() { # NAME STAGES INIT and the options that all share
    name=$1 stages=$2 init=$3
    shift 3
    stcq train "$here/$name.toml" $stages ${init:+--init "$init"} --resume --out "$out/$name" \
        --val "$val" --recognizer "$recognizer" "$@" >>"$out/$name.log" 2>&1 ||
        { echo "$(date +%T) $name failed, see $out/$name.log" >&2; return 1; }
    echo "$(date +%T) $name done"
}

(
    train base-64 "--stage 0" "" "$@" || exit 1
    train face-65 "--stage 2 --stage 3" "$out/base-64/base" "$@" &
    train face-33 "--stage 0 --stage 2 --stage 3" "$out/base-64/base" "$@"
    wait
) &
(
    train base-128 "--stage 0" "" "$@" || exit 1
    train face-129 "--stage 2 --stage 3" "$out/base-128/base" "$@"
) &
wait
for name in face-33 face-65 face-129; do
    [ -f "$out/$name/decoder/config.json" ] || { echo "$name is not there" >&2; exit 1; }
done
