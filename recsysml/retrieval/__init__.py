"""Between data and models: what a retriever is asked, how its answers are found fast, how a trained one is opened."""
