import gzip
import math

import numpy as np
import pytest

from recsysml.metrics import language as metrics


def test_ratio_is_the_pooled_mean_and_for_equal_units_the_usual_standard_error():
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    value, error = metrics.ratio(values, np.full(5, 2.0))
    assert value == pytest.approx(14 / 10)
    assert error == pytest.approx((values / 2).std(ddof=1) / math.sqrt(5))


def test_ratio_error_covers_the_truth_with_unequal_units():
    """Documents of 5 to 50 tokens, nats per token around 2: the error must match the spread over many samples."""
    rng = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(400):
        tokens = rng.integers(5, 50, size=60)
        nats = tokens * rng.normal(2.0, 0.5, size=60)
        value, error = metrics.ratio(nats, tokens)
        estimates.append(value)
        errors.append(error)
    assert np.mean(estimates) == pytest.approx(2.0, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.1)


def test_ratio_edges():
    assert metrics.ratio([6.0], [3.0]) == (2.0, None)
    with pytest.raises(ValueError, match="nothing to score"):
        metrics.ratio([1.0, 2.0], [0, 0])


def test_sum_by_unit_also_with_empty_units():
    values = np.arange(10.0)
    starts = np.array([0, 3, 3, 7])
    expected = [values[0:3].sum(), 0.0, values[3:7].sum(), values[7:].sum()]
    assert metrics.sum_by_unit(values, starts).tolist() == expected
    assert metrics.sum_by_unit(values, np.array([0, 4, 10])).tolist() == [6.0, 39.0, 0.0]


def test_unigram_is_counting_with_one_added():
    train = np.array([0, 0, 0, 1], dtype=np.uint16)
    expected = [-math.log(4 / 7), -math.log(2 / 7), -math.log(1 / 7)]
    assert metrics.unigram_nll(train, np.array([0, 1, 2], dtype=np.uint16), 3) == pytest.approx(expected)


def test_unigram_of_a_uniform_text_is_log_of_the_vocabulary():
    tokens = np.tile(np.arange(8, dtype=np.uint16), 100)
    assert metrics.unigram_nll(tokens, tokens, 8) == pytest.approx(math.log(8))


def test_bits_per_byte():
    assert metrics.bits_per_byte(8 * math.log(2) * 10, 10) == pytest.approx(8.0)


def test_compressors_against_the_gzip_tools_own_format():
    text = b"to be or not to be, that is the question. " * 50
    rates = metrics.compressed_bits_per_byte(text)
    # the gzip format holds 12 bytes more than zlib's around the same stream
    assert rates["gzip"] == pytest.approx(8 * (len(gzip.compress(text, 9)) - 12) / len(text))
    assert 0 < rates["lzma"] < 8
    noise = np.random.default_rng(0).bytes(10_000)
    assert min(metrics.compressed_bits_per_byte(noise).values()) > 7.9
