"""Data sources, one file a family.

`KINDS[kind]` is a module with `check(config) -> None` (cheap, torch-free: raises ConfigError/DataError with one line
before a run directory exists) and `load(config) -> TokenData | Interactions`, of impressions
`load_impressions(config, encoder=None) -> ImpressionTable`, of slates `load_slates(config) -> LoggedSlates`,
of ad decisions `load_ads(config) -> AdLog`.
`config.families` says which of them a kind has.
"""

KINDS = {
    "python_text": "recsysml.data.python_text",
    "text": "recsysml.data.text",
    "hub_text": "recsysml.data.hub_text",
    "interactions": "recsysml.data.interactions",
    "sequences": "recsysml.data.sequences",
    "ml_1m": "recsysml.data.ml_1m",
    "world": "recsysml.data.world",
    "kuairand": "recsysml.data.kuairand",
    "impressions": "recsysml.data.impressions",
    "ad_world": "recsysml.data.ad_world",
    "open_bandit": "recsysml.data.open_bandit",
    "logged_slates": "recsysml.data.logged_slates",
}
