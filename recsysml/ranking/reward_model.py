"""A model of the reward of showing an item, for off-policy evaluation: each request predicted by a model without it."""

from __future__ import annotations

import numpy as np

from recsysml.data.progress import progress

KINDS = ("ridge", "gradient_boosting")


def cross_fit(
    features: np.ndarray,
    mask: np.ndarray,
    shown: np.ndarray,
    reward: np.ndarray,
    *,
    kind: str = "ridge",
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """(R, N) predicted reward of every candidate of every request, 0 outside of mask.

    features (R, N, F) of candidates in their request; mask (R, N) bool; shown (R,) columns; reward (R,) of what was
    shown. Requests are dealt to `folds` at random; a fold is predicted by the model of the others, so that a
    prediction never has seen its own request (Chernozhukov et al. 2018, section 3). Predictions are kept within the
    rewards that the model has seen. Raises ValueError if there are fewer than two requests a fold.
    """
    n = len(shown)
    if n < 2 * folds:
        raise ValueError(f"{n} requests are too few for {folds} folds of a reward model: give fewer folds or more data")
    fold = np.random.default_rng(seed).permutation(n) % folds
    chosen = features[np.arange(n), shown]  # (R, F)
    predicted = np.zeros(mask.shape)
    with progress("fitting reward models", folds) as advance:
        for each in range(folds):
            inside = fold == each
            model = _model(kind, seed).fit(chosen[~inside], reward[~inside])
            seen = reward[~inside]
            real = mask & inside[:, None]
            predicted[real] = np.clip(model.predict(features[real]), seen.min(), seen.max())
            advance(1)
    return predicted


def _model(kind: str, seed: int):  # type: ignore[no-untyped-def]  # scikit-learn has no types
    if kind == "ridge":
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 5, 7)))
    from sklearn.ensemble import HistGradientBoostingRegressor

    # few leaves and a high floor of rows: rewards are noisy, and what is fitted to noise makes DR worse
    return HistGradientBoostingRegressor(
        max_iter=80, learning_rate=0.08, max_leaf_nodes=8, min_samples_leaf=50, l2_regularization=1.0,
        early_stopping=False, random_state=seed,
    )  # fmt: skip
