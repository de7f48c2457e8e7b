#!/usr/bin/env bash
# The whole path, from nothing to a model that one can talk to, on text that is already here: the documentation and the
# source of the Python that runs llmkit. `make demo` runs this; ten minutes on two cores with bf16, sixteen without. Nothing is
# downloaded.
#
#   bash recipes/demo.sh [FOLDER]
#
# Read it from top to bottom: each line is a command that you can type, on data of your own. Progress goes to the terminal;
# what a command prints with --json is kept for the report.
set -euo pipefail

demo=${1:-demo-run}
[ -e "$demo" ] && { echo "error: $demo is there already; fix: remove it, or name another folder" >&2; exit 2; }
mkdir -p "$demo"
section() { printf '\n== %s\n' "$*" >&2; }
value() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

section "1. A tokenizer: 4,096 tokens, learned from the training text, measured on text that it never saw"
llmkit tokenizer train python-docs --vocab-size 4096 --output "$demo/tokenizer" --json > "$demo/tokenizer-train.json"
llmkit tokenizer evaluate "$demo/tokenizer" --data python-docs@test --json > "$demo/tokenizer-evaluate.json"

section "2. The text as tokens, memory-mapped; whole modules are held out for validation and test"
llmkit data prepare python-docs --tokenizer "$demo/tokenizer" --output "$demo/data" --json > "$demo/data.json"

section "3. How fast is this machine? Ten steps tell how many fit into four minutes"
speed=$(llmkit pretrain laptop/pretrain-python --data "$demo/data" --output "$demo/.speed" --json --set train.steps=10 \
  --set train.validate_every=0 --set train.sample_every=0 --set data.validation_tokens=1000 | value tokens_per_second)
steps=${DEMO_STEPS:-$((225 * ${speed%.*} / 2048))} # a step sees 8 rows of 256 tokens

section "4. A language model from scratch: a Llama of 5.9 million parameters, $steps steps"
llmkit pretrain laptop/pretrain-python --data "$demo/data" --output "$demo/pretrained" --json > "$demo/pretrained.json" \
  --set "train.steps=$steps" --set "train.validate_every=$((steps / 6 + 1))" --set "train.sample_every=$((steps / 3 + 1))"

section "5. What it knows: bits per byte beside gzip and xz, and two tasks, without examples and with two"
llmkit evaluate --model "$demo/pretrained/model" --output "$demo/evaluated/pretrained" --shots 0,2 --limit 300 \
  --task python-docs-perplexity --task python-docs-package --task python-docs-description

section "6. Questions that it is never trained on (contextlib and tempfile are in the test split), before tuning"
questions=(
  --prompt "What is the class contextlib.redirect_stderr for?"
  --prompt "What does tempfile.mkdtemp do?"
  --prompt "What is the signature of contextlib.nullcontext?"
)
llmkit generate --model "$demo/pretrained/model" --chat --temperature 0 --max-new-tokens 60 "${questions[@]}" \
  --json > "$demo/before tuning.json"

section "7. Tuning on questions and answers, and the same questions and tasks again"
llmkit finetune laptop/finetune-python --model "$demo/pretrained/model" --data python-docs:instructions \
  --output "$demo/tuned" --set "train.steps=$((steps * 2 / 5))" --json > "$demo/tuned.json"
llmkit generate --model "$demo/tuned/model" --chat --temperature 0 --max-new-tokens 60 "${questions[@]}" \
  --json > "$demo/after tuning.json"
llmkit evaluate --model "$demo/tuned/model" --output "$demo/evaluated/tuned" --limit 300 \
  --task python-docs-package --task python-docs-description

section "8. The classical networks, on the sets that everybody knows"
llmkit baseline laptop/baseline-digits-mlp --output "$demo/digits-mlp" --json > "$demo/digits-mlp.json"
llmkit baseline laptop/baseline-digits-cnn --output "$demo/digits-cnn" --json > "$demo/digits-cnn.json"
llmkit baseline laptop/baseline-wine-mlp --output "$demo/wine-mlp" --json > "$demo/wine-mlp.json"
llmkit baseline laptop/baseline-mackey-glass-rnn --output "$demo/series-rnn" --json > "$demo/series-rnn.json"

section "9. One task, the same rows, every method: which package does this documentation belong to?"
llmkit compare python-docs-package --model "$demo/tuned/model" --output "$demo/compared" --limit 300 \
  --methods majority,tfidf,cnn,zero-shot,few-shot,full,cascade --set full.train.lr=5e-4 --set full.train.steps=100

section "10. What came out"
llmkit report "$demo" --title "From nothing to a chat: a model of Python's documentation"

section "Read $demo/report.html and $demo/compared/comparison.html; talk to it:  llmkit chat --model $demo/tuned/model"
