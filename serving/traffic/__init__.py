"""Which arm a unit is in, and what else is done beside a decision: experiments, holdout, targets, unit features, shadows."""
