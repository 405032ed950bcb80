"""Graph attention against dense masked attention; its symmetries; and the part of a graph a few nodes need."""

import pytest
import torch
import torch.nn.functional as F

from recsysml.nn.graph_attention import Graph, GraphAttention, around, segment_softmax


def drawn(seed, n=13, share=0.3):
    """A random graph, the same as a matrix (N, N) whose row n says whom n hears, and values; nodes 2, 12 hear none."""
    torch.manual_seed(seed)
    matrix = torch.rand(n, n) < share
    matrix[[2, n - 1]] = False
    return of_matrix(matrix), matrix, torch.randn(n, 8)


def of_matrix(matrix):
    return Graph(F.pad(matrix.sum(dim=1).cumsum(0), (1, 0)), matrix.nonzero()[:, 1])


def dense(layer, x, matrix):
    """The same layer by torch's attention over all pairs, those without an edge masked."""
    n, width = x.shape
    h = layer.norm(x)
    q, k, v = (part(h).view(n, layer.n_heads, -1).transpose(0, 1) for part in (layer.query, layer.key, layer.value))
    some = matrix.any(dim=1)
    found = F.scaled_dot_product_attention(q[:, some], k, v, matrix[some])
    heard = torch.zeros(layer.n_heads, n, width // layer.n_heads)
    heard[:, some] = found
    return x + layer.out(heard.transpose(0, 1).reshape(n, width))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("heads", [1, 4])
def test_it_is_dense_masked_attention_gradients_included(seed, heads):
    graph, matrix, x = drawn(seed)
    layer = GraphAttention(8, heads)
    pair = []
    for function, over in ((layer, graph), (lambda x, m: dense(layer, x, m), matrix)):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        found = function(inputs, over)
        (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
        pair.append([found.detach(), inputs.grad, *(p.grad.clone() for p in layer.parameters())])
    for ours, theirs in zip(*pair, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_numbering_of_nodes_does_not_matter(seed):
    graph, matrix, x = drawn(seed)
    layer = GraphAttention(8, 2)
    order = torch.randperm(len(x))
    renamed = of_matrix(matrix[order][:, order])
    torch.testing.assert_close(layer(x[order], renamed), layer(x, graph)[order])


def test_isolated_nodes_keep_their_value_and_an_empty_graph_is_no_error():
    graph, _, x = drawn(0)
    layer = GraphAttention(8, 2)
    found = layer(x, graph)
    assert torch.equal(found[[2, 12]], x[[2, 12]])
    assert not torch.isclose(found[[0, 1]], x[[0, 1]]).all()
    assert torch.equal(layer(x, of_matrix(torch.zeros(13, 13, dtype=torch.bool))), x)


def test_only_neighbours_are_heard():
    graph, matrix, x = drawn(1)
    layer = GraphAttention(8, 2)
    before = layer(x, graph)
    for node in range(13):
        other = x.clone()
        other[node] += torch.linspace(1, 3, 8)
        changed = (layer(other, graph) != before).any(dim=1)
        listeners = matrix[:, node].clone()
        listeners[node] = True
        assert not (changed & ~listeners).any()


def test_a_segments_softmax_survives_large_scores():
    scores = torch.tensor([[1e4], [1e4], [-1e4], [3.0]])
    found = segment_softmax(scores, torch.tensor([0, 0, 2, 2]), 4)
    torch.testing.assert_close(found[:, 0], torch.tensor([0.5, 0.5, 0.0, 1.0]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_part_around_a_few_nodes_gives_what_the_whole_graph_gives(seed, hops):
    graph, _, x = drawn(seed, n=30, share=0.06)
    layers = [GraphAttention(8, 2) for _ in range(hops)]
    nodes = torch.tensor([5, 5, 2, 17])
    part, found, place = around(graph, nodes, hops)
    whole, small = x, x[found]
    for layer in layers:
        whole, small = layer(whole, graph), layer(small, part)
    torch.testing.assert_close(small[place], whole[nodes])
    assert len(found) < 30 or hops > 1
