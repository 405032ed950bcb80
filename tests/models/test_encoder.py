"""Networks as retrievers: what they are given, and that padding and batching change no vector."""

import numpy as np
import pytest
import torch

from recsysml.models.encoder import EncoderRetriever, sequences
from recsysml.models.sasrec import SASRec
from recsysml.schemas.retrievers import SASRecConfig


@pytest.mark.parametrize("length", [1, 4, 9, 20])
def test_sequences_begin_with_the_start_token_unless_they_are_cut(draw, lists, length):
    histories = draw(0)
    expected = []
    for items in lists(histories):
        whole = [99, *items][-length:]
        expected.append(whole + [99] * (length - len(whole)))
    assert sequences(histories, length, 99).tolist() == expected


@pytest.mark.parametrize("context", [4, 30])
def test_a_users_vector_is_the_state_behind_its_last_item_whoever_shares_the_batch(draw, lists, context):
    torch.manual_seed(0)
    histories = draw(0)
    model = SASRec(SASRecConfig(d_model=16, context_length=context), 12).eval()
    retriever = EncoderRetriever(model)
    vectors, scores = retriever.user_vectors(histories), retriever.scores(histories)
    with torch.no_grad():
        for row, items in enumerate(lists(histories)):
            state = model(torch.tensor([[12, *items][-context:]]))[0, -1]
            assert vectors[row] == pytest.approx(state.numpy(), abs=1e-5)
            assert scores[row] == pytest.approx((model.item_matrix() @ state).numpy(), abs=1e-5)
    assert retriever.item_vectors().shape == (12, 16)
    assert not np.isnan(scores).any()


def test_no_history_at_all_still_has_an_answer(draw):
    torch.manual_seed(0)
    histories = draw(0).part(3, 4)
    assert len(histories.items) == 0
    retriever = EncoderRetriever(SASRec(SASRecConfig(d_model=16), 12).eval())
    assert retriever.scores(histories).shape == (1, 12)
