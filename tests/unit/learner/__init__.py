"""Tests of the learner, on a model made in a second."""
