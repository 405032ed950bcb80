"""One table for many columns, against a table for each and torch's own bags."""

import torch
from torch import nn

from recsysml.nn.field_embedding import FieldEmbedding


def test_each_column_has_its_own_rows():
    torch.manual_seed(0)
    embedding = FieldEmbedding({"a": 3, "b": 5, "c": 2}, 4)
    tables = dict(zip("abc", embedding.table.weight.split([3, 5, 2]), strict=True))
    ids = torch.tensor([[2, 4, 1], [0, 0, 0]])
    found = embedding(ids, ["a", "b", "c"])
    for row in range(2):
        for column, name in enumerate("abc"):
            assert torch.equal(found[row, column], tables[name][ids[row, column]])
    assert torch.equal(embedding(ids[:, [1]], ["b"])[:, 0], tables["b"][ids[:, 1]])


def test_bags_are_pooled_as_torch_does():
    torch.manual_seed(1)
    embedding = FieldEmbedding({"a": 3, "tags": 7}, 4)
    bags = torch.randint(-1, 7, (6, 1, 5))
    bags[2] = -1
    found = embedding.pooled(bags, ["tags"])[:, 0]
    theirs = nn.EmbeddingBag.from_pretrained(embedding.table.weight[3:], mode="mean")
    lists = [row[row >= 0] for row in bags[:, 0]]
    offsets = torch.tensor([0, *[len(row) for row in lists[:-1]]]).cumsum(0)
    torch.testing.assert_close(found, theirs(torch.cat(lists), offsets))
    assert not found[2].any()
    wider = torch.nn.functional.pad(bags, (0, 3), value=-1)
    torch.testing.assert_close(embedding.pooled(wider, ["tags"])[:, 0], found)


def test_an_event_is_the_sum_of_its_columns():
    torch.manual_seed(2)
    embedding = FieldEmbedding({"item": 4, "response": 3}, 5)
    events = torch.tensor([[[1, 2], [3, 0], [-1, -1]]])
    found = embedding.summed(events, ["item", "response"])
    weight = embedding.table.weight
    torch.testing.assert_close(found[0, 0], weight[1] + weight[4 + 2])
    torch.testing.assert_close(found[0, 1], weight[3] + weight[4])
    assert not found[0, 2].any()


def test_what_was_never_met_begins_with_nothing_to_say():
    embedding = FieldEmbedding({"a": 3, "b": 5}, 4)
    unmet = embedding(torch.zeros(1, 2, dtype=torch.int64), ["a", "b"])
    assert not unmet.any()
    assert embedding.table.weight.detach().ne(0).any(dim=1).sum() == 6
