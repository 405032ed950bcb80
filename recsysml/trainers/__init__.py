"""Trainers, one file each: `train(config: RunConfig, run: Run) -> None`."""

KINDS = {
    "language": "recsysml.trainers.language:train",
    "fit": "recsysml.trainers.fit:train",
    "retrieval": "recsysml.trainers.retrieval:train",
    "ranking": "recsysml.trainers.ranking:train",
    "value": "recsysml.trainers.value:train",
    "policy": "recsysml.trainers.policy:train",
    "feedback_loop": "recsysml.trainers.feedback_loop:train",
    "ads": "recsysml.trainers.ads:train",
}
