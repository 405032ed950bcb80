"""Models, one file each. `KINDS` says where a kind's class is; it is imported only when chosen."""

KINDS = {"gpt": "recsysml.models.gpt:GPT", "hf": "recsysml.models.hf:HFModel"}
