"""Training: recipes, data, losses and the stages from base tokenizer to shipped codec."""
