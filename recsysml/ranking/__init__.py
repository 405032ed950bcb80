"""What a ranker's trainer and its evals share: opening a checkpoint, and scoring rows."""
