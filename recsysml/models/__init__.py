"""Models, one file each. `KINDS` says where a kind's class is; it is imported only when chosen."""

KINDS = {
    "gpt": "recsysml.models.gpt:GPT",
    "hf": "recsysml.models.hf:HFModel",
    "popularity": "recsysml.models.popularity:Popularity",
    "recent_popularity": "recsysml.models.recent_popularity:RecentPopularity",
    "seq_knn": "recsysml.models.seq_knn:SeqKnn",
    "ease": "recsysml.models.ease:Ease",
    "bpr": "recsysml.models.bpr:Bpr",
    "als": "recsysml.models.als:Als",
    "sasrec": "recsysml.models.sasrec:SASRec",
    "two_tower": "recsysml.models.two_tower:TwoTower",
    "multi_head": "recsysml.models.multi_head:MultiHead",
    "multi_stage": "recsysml.models.multi_stage:MultiStage",
    "mtml": "recsysml.models.mtml:MTML",
    "value_model": "recsysml.models.value_model:ValueModel",
    "policy_ranker": "recsysml.models.policy_ranker:PolicyRanker",
    "ad_placement": "recsysml.models.ad_placement:AdPlacement",
}
