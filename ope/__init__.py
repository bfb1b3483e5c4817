"""Judges policies on logged decisions: estimators, intervals, the gate, promotion, reports. Estimators are float64 numpy throughout."""
