"""recsysml: language models and recommenders trained, judged and compared the same way."""

__version__ = "0.1.0"
