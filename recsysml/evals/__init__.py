"""Kinds of judging, one file each: `evaluate_checkpoint(config: RunConfig, checkpoint: Path, run: Run) -> None`.

`CHECKS[kind]`, where a kind has one, is `check(config: RunConfig) -> None`: what can be known before a run directory
exists. Its module imports no torch.
"""

KINDS = {
    "language": "recsysml.evals.language:evaluate_checkpoint",
    "lm_harness": "recsysml.evals.lm_harness:evaluate_checkpoint",
    "retrieval": "recsysml.evals.retrieval:evaluate_checkpoint",
    "ranking": "recsysml.evals.ranking:evaluate_checkpoint",
    "true_reward": "recsysml.evals.true_reward:evaluate_checkpoint",
    "value": "recsysml.evals.value:evaluate_checkpoint",
    "page": "recsysml.evals.page:evaluate_checkpoint",
    "policy": "recsysml.evals.policy:evaluate_checkpoint",
    "ads": "recsysml.evals.ads:evaluate_checkpoint",
    "contamination": "recsysml.evals.contamination:evaluate_checkpoint",
    "rag": "recsysml.evals.rag:evaluate_checkpoint",
}
CHECKS = {
    "page": "recsysml.evals.splits:check_page",
    "language": "recsysml.evals.splits:check",
    "contamination": "recsysml.evals.contamination:check",
    "rag": "recsysml.evals.rag:check",
}
