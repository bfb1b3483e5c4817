"""Personalised policies from experiments: doubly robust scores, learners of effects, policy trees, and what they are worth."""
