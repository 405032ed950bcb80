"""Representations of ids: repeatable, addressed with a gradient, gated by what is known."""

import subprocess
import sys

import pytest
import torch

from recsysml.nn.embeddings import CohortEmbedding, DeepHashEmbedding, GatedMixture, TableEmbedding

IDS = torch.tensor([0, 1, 7, 123_456_789_012, -1])


def test_a_table_gives_all_ids_never_met_one_vector():
    table = TableEmbedding(5, 3)
    found = table(torch.tensor([[0, 4], [-1, -9]]))
    assert torch.equal(found[0], table.table.weight[[0, 4]])
    assert torch.equal(found[1], table.table.weight[[5, 5]])


def test_hash_codes_are_the_same_on_every_call_and_in_every_process():
    embedding = DeepHashEmbedding(4, n_hashes=5)
    codes = embedding.codes(IDS)
    assert torch.equal(codes, embedding.codes(IDS))
    torch.manual_seed(99)
    assert torch.equal(codes, DeepHashEmbedding(4, n_hashes=5).codes(IDS))
    assert not torch.equal(codes, DeepHashEmbedding(4, n_hashes=5, seed=1).codes(IDS))
    program = (
        "import torch; from recsysml.nn.embeddings import DeepHashEmbedding;"
        f"print(DeepHashEmbedding(4, n_hashes=5).codes(torch.tensor({IDS.tolist()})).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(codes.tolist())


def test_hash_codes_are_those_of_integers_without_bounds():
    """Against Python's own integers: nothing overflows."""
    embedding = DeepHashEmbedding(4, n_hashes=6)
    prime = 2**31 - 1
    for row, number in zip(embedding.codes(IDS).tolist(), IDS.tolist(), strict=True):
        for code, a, b in zip(row, embedding.multipliers.tolist(), embedding.shifts.tolist(), strict=True):
            place = ((number % prime) * a + b) % prime % 1_000_003
            assert code == pytest.approx(2 * place / 1_000_002 - 1, abs=1e-6)


def test_hash_codes_are_spread_evenly_and_apart():
    codes = DeepHashEmbedding(4, n_hashes=8).codes(torch.arange(20_000))
    assert codes.min() >= -1
    assert codes.max() <= 1
    counts = ((codes + 1) * 5).long().clamp(max=9)  # ten bins of 2,000 expected
    for column in counts.T:
        assert (column.bincount(minlength=10) - 2000).abs().max() < 6 * 2000**0.5
    assert len(torch.unique(codes, dim=0)) == 20_000


def test_a_hash_needs_no_more_parameters_for_more_ids():
    few = sum(p.numel() for p in DeepHashEmbedding(16).parameters())
    assert few < sum(p.numel() for p in TableEmbedding(10_000, 16).parameters())


def test_every_part_of_a_cohort_lookup_is_reached_by_the_gradient():
    torch.manual_seed(0)
    cohorts = CohortEmbedding(3, 5, 4)
    cohorts(torch.randn(6, 3)).square().sum().backward()
    for name, parameter in cohorts.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_cohort_vector_lies_between_the_rows_of_its_table():
    torch.manual_seed(0)
    cohorts = CohortEmbedding(3, 5, 4)
    features = torch.randn(7, 3)
    weights = torch.softmax(cohorts.address(features), dim=1)
    expected = torch.stack([sum(weights[i, j] * cohorts.table[j] for j in range(5)) for i in range(7)])
    torch.testing.assert_close(cohorts(features), expected)


def test_the_gate_rises_with_what_is_known_whatever_was_learnt():
    events = torch.tensor([0, 1, 3, 10, 100, 10_000])
    for bias, slope in ((-4.0, 1.0), (3.0, -5.0)):
        mixture = GatedMixture()
        mixture.bias.data.fill_(bias)
        mixture.slope.data.fill_(slope)
        assert (mixture.gate(events).diff() > 0).all()
    fresh = GatedMixture()
    assert fresh.gate(torch.tensor(0)).item() == pytest.approx(1 / (1 + torch.e**4), rel=1e-4)
    memory, cohort = torch.randn(6, 3), torch.randn(6, 3)
    share = fresh.gate(events)[:, None]
    torch.testing.assert_close(fresh(memory, cohort, events), share * memory + (1 - share) * cohort)
