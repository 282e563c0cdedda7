"""A causal language model with a LoRA adapter that scores, then learns."""
