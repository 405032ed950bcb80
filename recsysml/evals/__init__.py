"""Kinds of judging, one file each: `evaluate_checkpoint(config: RunConfig, checkpoint: Path, run: Run) -> None`."""

KINDS = {
    "language": "recsysml.evals.language:evaluate_checkpoint",
    "lm_harness": "recsysml.evals.lm_harness:evaluate_checkpoint",
}
