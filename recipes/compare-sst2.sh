#!/usr/bin/env bash
# Every method on one real task: is a sentence of a film review positive or negative (SST-2)? From the most frequent class
# over TF-IDF and a CNN to SmolLM2-135M, asked without examples, asked with four, and tuned with LoRA on a thousand.
#
#   bash recipes/smollm2.sh                                 the model, if it is not there: its first two sections are enough
#   bash recipes/compare-sst2.sh DATA [MODEL] [FOLDER]      DATA: a folder with train.tsv and dev.tsv, or sst2/ in it
#
# Nothing is downloaded. Half an hour on two cores, 3 GB of memory; most of it is LoRA. Stop it whenever you like, and run
# it again: finished methods are kept, and a training goes on at its checkpoint. For a task that needs no data at all, put
# python-docs-package in place of sst2 and leave --data out.
set -euo pipefail

[ $# -ge 1 ] || { echo "error: name the folder that train.tsv and dev.tsv are in; fix: bash recipes/compare-sst2.sh DATA" >&2; exit 2; }
data=$1 model=${2:-smollm2/model} folder=${3:-compared-sst2}
[ -e "$model" ] || { echo "error: there is no model in $model; fix: bash recipes/smollm2.sh, or name one" >&2; exit 2; }

# The curve: how many labelled examples does it take to beat the language model?
llmkit compare sst2 --data "$data" --model "$model" --output "$folder" --limit-train 1000 --limit 400 \
  --methods majority,tfidf,mlp,cnn,rnn,zero-shot,few-shot,lora,cascade --shots 4 --set lora.train.save_every=20 \
  --curve 0,2,4,8,...,all --curve-methods tfidf,cnn,zero-shot,few-shot
