"""The gate: evidence and a declared config in, a verdict out; and what a verdict moves."""
