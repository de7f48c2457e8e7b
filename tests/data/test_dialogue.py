"""Rows: what is trained, how rows are stacked, and that the loss is the slow, obvious one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmkit.batch import IGNORE_INDEX, count_targets
from llmkit.data.dialogue import DialogueRows, Message, PackedRows, Row, encode_dialogue, show_row
from llmkit.losses import causal_lm_loss_sum
from llmkit.models.attention import use_products
from llmkit.tokenizer import train_tokenizer

DIALOGUE = [
    Message("system", "be brief"),
    Message("user", "what comes next?"),
    Message("assistant", "the next token"),
    Message("user", "and then?"),
    Message("assistant", "text after that"),
]


def text_of_targets(row, tokenizer):
    return tokenizer.decode([int(t) for t in row.targets if t != IGNORE_INDEX])


def test_only_answers_and_their_end_of_turn_are_trained(tiny_tokenizer):
    row = encode_dialogue(DIALOGUE, tiny_tokenizer)
    assert text_of_targets(row, tiny_tokenizer) == "the next token<|im_end|>text after that<|im_end|>"
    assert row.num_bytes == len("the next token") + len("text after that")


def test_targets_are_the_next_ids(tiny_tokenizer):
    row = encode_dialogue(DIALOGUE, tiny_tokenizer)
    places = np.flatnonzero(row.targets != IGNORE_INDEX)
    assert (row.targets[places] == row.input_ids[places + 1]).all()


def test_an_answer_that_says_so_is_not_trained(tiny_tokenizer):
    first, *rest = DIALOGUE[2:]
    row = encode_dialogue([*DIALOGUE[:2], first._replace(is_trained=False), *rest], tiny_tokenizer)
    assert text_of_targets(row, tiny_tokenizer) == "text after that<|im_end|>"


def test_a_token_that_begins_in_the_header_is_trained_with_the_answer():
    tokenizer = train_tokenizer(["one::two three::four"] * 20, vocab_size=300)
    header = "{{ '<|im_start|>assistant:' }}"
    turns = "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
    tokenizer.chat_template = f"{turns}{{% if add_generation_prompt %}}{header}{{% endif %}}"
    row = encode_dialogue([Message("user", "two"), Message("assistant", ":b")], tokenizer)
    trained = [int(t) for t in row.targets if t != IGNORE_INDEX]
    assert tokenizer.convert_ids_to_tokens(trained) == ["::", "b", "<|im_end|>"]


def test_the_summed_loss_is_that_of_a_mask_made_by_hand(tiny_tokenizer, tiny_model):
    rows = DialogueRows([encode_dialogue(DIALOGUE, tiny_tokenizer), encode_dialogue(DIALOGUE[1:3], tiny_tokenizer)])
    batch = rows.batch([0, 1])
    expected, count = torch.zeros(()), 0
    for messages in (DIALOGUE, DIALOGUE[1:3]):
        # Everything after "<|im_start|>assistant\n" up to and including "<|im_end|>", found in the text.
        ids, trained = [], []
        for m in messages:
            header = tiny_tokenizer(f"<|im_start|>{m.role}\n", add_special_tokens=False).input_ids
            body = tiny_tokenizer(f"{m.content}<|im_end|>", add_special_tokens=False).input_ids
            end = tiny_tokenizer("\n", add_special_tokens=False).input_ids
            ids += header + body + end
            trained += [False] * len(header) + [m.role == "assistant"] * len(body) + [False] * len(end)
        log_probabilities = F.log_softmax(tiny_model(torch.tensor([ids])).logits[0].float(), dim=-1)
        for t in range(1, len(ids)):
            if trained[t]:
                expected = expected - log_probabilities[t - 1, ids[t]]
                count += 1
    assert count_targets(batch) == count
    assert causal_lm_loss_sum(tiny_model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_masked_prompts_and_padding_add_nothing_to_the_loss(tiny_tokenizer, tiny_model):
    rows = DialogueRows([encode_dialogue(DIALOGUE, tiny_tokenizer), encode_dialogue(DIALOGUE[1:3], tiny_tokenizer)])
    together = causal_lm_loss_sum(tiny_model, rows.batch([0, 1])).item()
    alone = sum(causal_lm_loss_sum(tiny_model, rows.batch([i])).item() for i in (0, 1))
    assert together == pytest.approx(alone, rel=1e-5)


def test_rows_end_at_their_last_target(tiny_tokenizer):
    row = encode_dialogue([*DIALOGUE, Message("user", "one more question")], tiny_tokenizer)
    ids, targets = DialogueRows([row]).rows[0]
    assert targets[-1] != IGNORE_INDEX
    assert len(ids) < len(row.input_ids)


def test_a_longer_row_loses_its_end_and_says_so(tiny_tokenizer):
    whole = encode_dialogue(DIALOGUE, tiny_tokenizer)
    cut = encode_dialogue(DIALOGUE, tiny_tokenizer, max_length=len(whole.input_ids) - 6)
    assert cut.is_cut
    assert not whole.is_cut
    assert cut.num_tokens == len(whole.input_ids)
    assert cut.input_ids.tolist() == whole.input_ids[:-6].tolist()
    assert cut.num_targets < whole.num_targets
    assert cut.num_bytes < whole.num_bytes


def test_what_is_trained_is_shown_in_brackets(tiny_tokenizer):
    ids, targets = DialogueRows([encode_dialogue(DIALOGUE[1:3], tiny_tokenizer)]).rows[0]
    shown = show_row(ids.tolist(), targets.tolist(), tiny_tokenizer)
    assert shown.endswith("<|im_start|>assistant\n[[the next token<|im_end|>]]")


def test_rows_with_other_ids_have_another_hash(tiny_tokenizer):
    one, two = (DialogueRows([encode_dialogue(DIALOGUE[a:b], tiny_tokenizer)]) for a, b in ((0, 3), (1, 3)))
    assert one.content_hash != two.content_hash


def many_rows(tokenizer, count=7):
    contents = ["the next token", "text", "from text and then we ask it what comes after", "a model learns to guess"]
    dialogues = [
        [Message("user", contents[i % 4] * (1 + i % 3)), Message("assistant", contents[(i + 1) % 4])]
        for i in range(count)
    ]
    return [encode_dialogue(messages, tokenizer) for messages in dialogues]


@pytest.mark.parametrize("attention", ["sdpa", "eager", "llmkit_products"])
def test_rows_end_to_end_have_the_loss_and_the_gradient_of_rows_alone(tiny_tokenizer, tiny_model, attention):
    rows = many_rows(tiny_tokenizer)
    use_products(tiny_model)  # makes it known
    results = []
    for is_flat in (False, True):
        tiny_model.zero_grad()
        tiny_model.set_attn_implementation(attention if is_flat else "sdpa")
        parts = [list(range(7))] if is_flat else [[i] for i in range(7)]
        losses = [causal_lm_loss_sum(tiny_model, DialogueRows(rows, is_flat=is_flat).batch(part)) for part in parts]
        sum(losses).backward()
        results.append((sum(losses).item(), tiny_model.model.layers[0].self_attn.q_proj.weight.grad.clone()))
    (alone, grad), (flat, flat_grad) = results
    assert flat == pytest.approx(alone, rel=1e-5)
    assert torch.allclose(flat_grad, grad, atol=1e-5 * grad.abs().max())


def test_rows_end_to_end_have_no_padding(tiny_tokenizer):
    rows = DialogueRows(many_rows(tiny_tokenizer), is_flat=True)
    batch = rows.batch([2, 0])
    assert batch["input_ids"].shape == (1, rows.lengths[2] + rows.lengths[0])
    assert batch["position_ids"][0].tolist() == [*range(rows.lengths[2]), *range(rows.lengths[0])]


def test_packed_rows_are_whole_rows_each_where_it_leaves_the_least_room():
    rows = [Row(np.arange(n, dtype=np.int32), np.arange(n, dtype=np.int32), 0, n) for n in (3, 7, 2, 5, 4)]
    packed = PackedRows(DialogueRows(rows, is_flat=True), seq_len=9)
    # 7, 5; then 4 fills up the 5, 3 finds no room, 2 fills up the 7.
    assert packed.packs == [[1, 2], [3, 4], [0]]
    assert packed.lengths == [9, 9, 3]
    assert packed.batch([0])["input_ids"].tolist() == [[*range(7), *range(2)]]


def test_the_loss_of_packed_rows_is_that_of_the_rows(tiny_tokenizer, tiny_model):
    rows = many_rows(tiny_tokenizer, 20)
    alone = DialogueRows(rows)
    packed = PackedRows(DialogueRows(rows, is_flat=True), seq_len=100)
    assert len(packed) < 20
    with torch.no_grad():
        expected = sum(causal_lm_loss_sum(tiny_model, alone.batch([i])).item() for i in range(20))
        found = sum(causal_lm_loss_sum(tiny_model, packed.batch([i])).item() for i in range(len(packed)))
    assert found == pytest.approx(expected, rel=1e-5)
    assert sum(count_targets(packed.batch([i])) for i in range(len(packed))) == sum(row.num_targets for row in rows)
