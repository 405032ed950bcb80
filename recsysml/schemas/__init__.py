"""Every config as a typed dataclass, importable without torch, so that a mistake is found in milliseconds.

`SCHEMAS[group][kind]` names the dataclass of one kind. A YAML in `conf/<group>/` says its `kind` and lists every
field; `docs/config.md` is made from these classes.
"""

SCHEMAS: dict[str, dict[str, str]] = {
    "model": {
        "gpt": "recsysml.schemas.models:GPTConfig",
        "hf": "recsysml.schemas.models:HFConfig",
        "popularity": "recsysml.schemas.retrievers:PopularityConfig",
        "recent_popularity": "recsysml.schemas.retrievers:RecentPopularityConfig",
        "seq_knn": "recsysml.schemas.retrievers:SeqKnnConfig",
        "ease": "recsysml.schemas.retrievers:EaseConfig",
        "bpr": "recsysml.schemas.retrievers:BprConfig",
        "als": "recsysml.schemas.retrievers:AlsConfig",
        "sasrec": "recsysml.schemas.retrievers:SASRecConfig",
        "two_tower": "recsysml.schemas.retrievers:TwoTowerConfig",
        "multi_head": "recsysml.schemas.retrievers:MultiHeadConfig",
        "multi_stage": "recsysml.schemas.retrievers:MultiStageConfig",
        "mtml": "recsysml.schemas.rankers:MTMLConfig",
        "value_model": "recsysml.schemas.rankers:ValueModelConfig",
        "policy_ranker": "recsysml.schemas.policies:PolicyRankerConfig",
        "ad_placement": "recsysml.schemas.rankers:AdPlacementConfig",
    },
    "data": {
        "python_text": "recsysml.schemas.data:PythonTextConfig",
        "text": "recsysml.schemas.data:TextConfig",
        "hub_text": "recsysml.schemas.data:HubTextConfig",
        "interactions": "recsysml.schemas.data:InteractionsConfig",
        "sequences": "recsysml.schemas.data:SequencesConfig",
        "ml_1m": "recsysml.schemas.data:Ml1mConfig",
        "world": "recsysml.schemas.data:WorldConfig",
        "kuairand": "recsysml.schemas.impressions:KuaiRandConfig",
        "impressions": "recsysml.schemas.impressions:ImpressionsConfig",
        "ad_world": "recsysml.schemas.data:AdWorldConfig",
        "open_bandit": "recsysml.schemas.slates:OpenBanditConfig",
        "logged_slates": "recsysml.schemas.slates:LoggedSlatesConfig",
    },
    "trainer": {
        "language": "recsysml.schemas.trainers:LanguageTrainerConfig",
        "fit": "recsysml.schemas.trainers:FitTrainerConfig",
        "retrieval": "recsysml.schemas.trainers:RetrievalTrainerConfig",
        "ranking": "recsysml.schemas.trainers:RankingTrainerConfig",
        "value": "recsysml.schemas.trainers:ValueTrainerConfig",
        "policy": "recsysml.schemas.policy_trainers:PolicyTrainerConfig",
        "feedback_loop": "recsysml.schemas.policy_trainers:FeedbackLoopTrainerConfig",
        "ads": "recsysml.schemas.trainers:AdsTrainerConfig",
    },
    "eval": {
        "language": "recsysml.schemas.evals:LanguageEvalConfig",
        "lm_harness": "recsysml.schemas.evals:LMHarnessEvalConfig",
        "retrieval": "recsysml.schemas.evals:RetrievalEvalConfig",
        "ranking": "recsysml.schemas.evals:RankingEvalConfig",
        "true_reward": "recsysml.schemas.evals:TrueRewardEvalConfig",
        "value": "recsysml.schemas.evals:ValueEvalConfig",
        "page": "recsysml.schemas.evals:PageEvalConfig",
        "policy": "recsysml.schemas.evals:PolicyEvalConfig",
        "ads": "recsysml.schemas.evals:AdsEvalConfig",
        "contamination": "recsysml.schemas.evals:ContaminationEvalConfig",
        "rag": "recsysml.schemas.evals:RAGEvalConfig",
    },
}
