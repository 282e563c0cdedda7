"""Keep a LoRA adapter of a language model as fresh as an event stream."""
