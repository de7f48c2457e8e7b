import torch

from llmkit.evaluation import tree
from llmkit.evaluation.tree import (
    Request,
    cluster_groups,
    group_requests,
    lay_out,
    separate_groups,
    stack_groups,
    tree_mask,
)


def groups_of(*contexts):
    return group_requests([Request(context, (1,)) for context in contexts])


def test_requests_with_one_context_become_one_group_and_equal_continuations_one_branch():
    groups = group_requests([Request((1, 2), (3, 4)), Request((1, 2), (5,)), Request((1, 2), (3, 4))])
    assert len(groups) == 1
    assert groups[0].continuations == [(3, 4), (5,)]
    assert groups[0].members == [(0, 0), (2, 0), (1, 1)]


def test_continuations_share_what_they_begin_with():
    # The last ids (3, 4, 9) are only predicted: 1 2 is run once for two of them, 5 by itself.
    found = lay_out([(1, 2, 3), (5, 9), (1, 2, 4)])
    assert found.ids == [1, 2, 5]
    assert found.depths == [0, 1, 0]
    assert found.ends == [2, 2, 3]
    assert found.places == [[-1, 0, 1], [-1, 2], [-1, 0, 1]]


def test_a_branch_goes_on_where_it_parted():
    found = lay_out([(1, 2, 3, 0), (1, 2, 4, 0), (1, 5, 0)])
    assert found.ids == [1, 2, 3, 4, 5]
    assert found.depths == [0, 1, 2, 2, 1]
    assert found.ends == [5, 4, 3, 4, 5]
    assert found.places == [[-1, 0, 1, 2], [-1, 0, 1, 3], [-1, 0, 4]]


def test_a_group_is_laid_out_as_context_and_branches_that_continue_it():
    (group,) = group_requests([Request((7, 8), (1, 2, 3)), Request((7, 8), (4, 5))])
    stacked = stack_groups([group], [10])
    assert stacked.ids.tolist() == [[7, 8, 1, 2, 4]]
    assert stacked.positions.tolist() == [[10, 11, 12, 13, 12]]
    assert stacked.ends.tolist() == [[5, 5, 4, 4, 5]]
    # The end of the context predicts the first id of both, and is scored once.
    assert stacked.columns.tolist() == [1, 2, 3, 4]
    assert stacked.spots.tolist() == [0, 1, 2, 0, 3]
    assert stacked.targets.tolist() == [1, 2, 3, 4, 5]
    assert not stacked.is_plain


def test_a_branch_sees_prefix_context_and_itself_but_no_other_branch():
    seen = tree_mask(torch.tensor([[5, 5, 4, 4, 5]]), [1], torch.float32)[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_padding_is_seen_by_nobody_and_sees_the_context():
    requests = [Request((7, 8), (1, 2)), Request((9,), (3,))]
    stacked = stack_groups(group_requests(requests), [0, 0])
    seen = tree_mask(stacked.ends, [0, 0], torch.float32)[1, 0] == 0
    assert stacked.ids.tolist() == [[7, 8, 1], [9, 0, 0]]
    assert seen.int().tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_of_prefixes_of_unequal_length_each_row_sees_its_own():
    seen = tree_mask(torch.tensor([[1], [1]]), [3, 1], torch.float32)[:, 0] == 0
    assert seen.int().tolist() == [[[1, 1, 1, 1]], [[1, 0, 0, 1]]]


def test_a_prefix_never_takes_the_last_id_of_a_context():
    shared = tuple(range(400))
    (cluster,) = cluster_groups(groups_of(shared, (*shared, 7), (*shared, 8)))
    assert len(cluster.prefix) == 399
    assert [group.context for group in cluster.groups] == [(399,), (399, 7), (399, 8)]


def test_two_beginnings_shared_by_many_are_worth_more_than_one_shared_by_all():
    one, other = (1, *range(100, 400)), (1, *range(500, 800))
    clusters = cluster_groups(groups_of(*((*start, end) for start in (one, other) for end in range(3))))
    assert sorted(cluster.prefix for cluster in clusters) == [one, other]


def test_contexts_that_share_little_stay_together_without_a_cache():
    clusters = cluster_groups(groups_of(*((1, 2, n) for n in range(5))))
    assert [(cluster.prefix, len(cluster.groups)) for cluster in clusters] == [((), 5)]


def test_more_branches_than_a_row_takes_get_several_rows(monkeypatch):
    monkeypatch.setattr(tree, "MAX_BRANCHES", 6)
    groups = group_requests([Request((7,), (n, n, n)) for n in range(5)])
    assert [len(group.continuations) for group in groups] == [2, 2, 1]
    assert sorted(index for group in groups for index, _ in group.members) == [0, 1, 2, 3, 4]


def test_without_a_tree_those_that_run_the_same_ids_still_share_a_row():
    groups = separate_groups([Request((1, 2), (n,)) for n in range(4)] + [Request((1, 2), (5, 6)), Request((1,), (2,))])
    assert [len(group.continuations) for group in groups] == [4, 1, 1]
    assert stack_groups(groups, [0, 0, 0]).is_plain
