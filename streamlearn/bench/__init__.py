"""Learners side by side on one stream: what each would have scored before it learnt."""
