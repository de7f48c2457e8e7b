import torch

from llmkit.evaluation.tree import Group, Request, cluster_groups, group_requests, stack_groups, tree_mask


def test_requests_with_one_context_become_one_group_and_equal_continuations_one_branch():
    groups = group_requests([Request((1, 2), (3, 4)), Request((1, 2), (5,)), Request((1, 2), (3, 4))])
    assert len(groups) == 1
    assert groups[0].continuations == [(3, 4), (5,)]
    assert groups[0].members == [(0, 0), (1, 1), (2, 0)]


def test_a_group_is_laid_out_as_context_and_branches_that_continue_it():
    # context 7 8, continuations 1 2 3 and 4 5: the last id of each is only predicted.
    stacked = stack_groups([Group((7, 8), [(1, 2, 3), (4, 5)])], 10)
    assert stacked.ids.tolist() == [[7, 8, 1, 2, 4]]
    assert stacked.positions.tolist() == [[10, 11, 12, 13, 12]]
    assert stacked.branches.tolist() == [[0, 0, 1, 1, 2]]
    assert stacked.columns.tolist() == [1, 2, 3, 1, 4]
    assert stacked.targets.tolist() == [1, 2, 3, 4, 5]


def test_a_branch_sees_prefix_context_and_itself_but_no_other_branch():
    seen = tree_mask(torch.tensor([[0, 0, 1, 1, 2]]), 1, torch.float32)[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_a_prefix_never_takes_the_last_id_of_a_context():
    shared = tuple(range(400))
    (cluster,) = cluster_groups([Group(shared), Group((*shared, 7)), Group((*shared, 8))])
    assert len(cluster.prefix) == 399
    assert [group.context for group in cluster.groups] == [(399,), (399, 7), (399, 8)]


def test_two_beginnings_shared_by_many_are_worth_more_than_one_shared_by_all():
    one, other = (1, *range(100, 400)), (1, *range(500, 800))
    clusters = cluster_groups([Group((*start, end)) for start in (one, other) for end in range(3)])
    assert sorted(cluster.prefix for cluster in clusters) == [one, other]


def test_contexts_that_share_little_stay_together_without_a_cache():
    clusters = cluster_groups([Group((1, 2, n)) for n in range(5)])
    assert [(cluster.prefix, len(cluster.groups)) for cluster in clusters] == [((), 5)]
