"""Kinds of judging, one file each: `evaluate_checkpoint(config: RunConfig, checkpoint: Path, run: Run) -> None`."""

KINDS = {
    "language": "recsysml.evals.language:evaluate_checkpoint",
    "retrieval": "recsysml.evals.retrieval:evaluate_checkpoint",
}
