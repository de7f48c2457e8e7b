#!/usr/bin/env bash
# Every method on one real task: is a sentence of a film review positive or negative (SST-2)? From the most frequent class
# over TF-IDF and a CNN to SmolLM2-135M, asked without examples, asked with four, and tuned with LoRA on a thousand.
#
#   bash recipes/smollm2.sh                                 the model, if it is not there: its first two sections are enough
#   bash recipes/compare-sst2.sh DATA [MODEL] [FOLDER]      DATA: a folder with train.tsv and dev.tsv, or sst2/ in it
#
# Nothing is downloaded. It takes 26 minutes of one core that has no bf16 (less on two, or with it), 3.8 GB of memory; most
# of it is LoRA. Stop it whenever you like, and run it again: finished methods are kept, and a training goes on at its
# checkpoint. For a task that needs no data at all, put python-docs-package in place of sst2 and leave --data out.
#
# It came to an accuracy of 0.843 for LoRA, 0.838 for the cascade, 0.755 for TF-IDF, 0.743 MLP, 0.713 CNN, 0.708 LSTM, 0.598
# without examples and 0.485 with four, which made the model say "negative" to everything. Below 89 labelled examples the
# model without any is better than TF-IDF.
set -euo pipefail

[ $# -ge 1 ] || { echo "error: name the folder that train.tsv and dev.tsv are in; fix: bash recipes/compare-sst2.sh DATA" >&2; exit 2; }
data=$1 model=${2:-smollm2/model} folder=${3:-compared-sst2}
[ -e "$model" ] || { echo "error: there is no model in $model; fix: bash recipes/smollm2.sh, or name one" >&2; exit 2; }

# The curve: how many labelled examples does it take to beat the language model?
llmkit compare sst2 --data "$data" --model "$model" --output "$folder" --limit-train 1000 --limit 400 \
  --methods majority,tfidf,mlp,cnn,rnn,zero-shot,few-shot,lora,cascade --shots 4 --set lora.train.save_every=20 \
  --curve 0,2,4,8,...,all --curve-methods tfidf,cnn,zero-shot,few-shot
