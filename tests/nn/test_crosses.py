"""Crosses against loops over pairs and rows."""

import itertools

import pytest
import torch

from recsysml.nn.crosses import make_interaction


@pytest.mark.parametrize("seed", [0, 1])
def test_dot_gives_the_vectors_and_the_product_of_each_pair(seed):
    torch.manual_seed(seed)
    vectors = torch.randn(3, 4, 5)
    interaction = make_interaction("dot", 4, 5, 2)
    found = interaction(vectors)
    assert found.shape == (3, interaction.width)
    assert torch.equal(found[:, :20], vectors.flatten(1))
    for row in range(3):
        products = [float(vectors[row, a] @ vectors[row, b]) for a, b in itertools.combinations(range(4), 2)]
        torch.testing.assert_close(found[row, 20:], torch.tensor(products))


def test_a_cross_layer_is_its_formula():
    torch.manual_seed(0)
    cross = make_interaction("dcn", 3, 2, 2)
    vectors = torch.randn(4, 3, 2)
    for row, found in enumerate(cross(vectors)):
        first = x = vectors[row].flatten()
        for down, up in zip(cross.down, cross.up, strict=True):
            matrix = up.weight @ down.weight
            x = first * (matrix @ x + up.bias) + x
        torch.testing.assert_close(found, x)


def test_crosses_of_no_layer_are_the_vectors_themselves():
    vectors = torch.randn(2, 3, 4)
    assert torch.equal(make_interaction("dcn", 3, 4, 0)(vectors), make_interaction("concat", 3, 4, 0)(vectors))


def test_two_cross_layers_hold_products_of_three():
    """The third derivative along a line is that of a cubic: not 0, and the fourth is."""
    torch.manual_seed(1)
    cross = make_interaction("dcn", 2, 2, 2).double()
    base, along = torch.randn(1, 2, 2).double(), torch.randn(1, 2, 2).double()
    points = torch.stack([cross(base + t * along).detach() for t in torch.arange(5).double()])
    third = points[3] - 3 * points[2] + 3 * points[1] - points[0]
    fourth = points[4] - 4 * points[3] + 6 * points[2] - 4 * points[1] + points[0]
    assert third.abs().max() > 1e-6
    assert fourth.abs().max() < 1e-9
