"""Effects of treatments from experiments, by regressions on compressed rows."""
