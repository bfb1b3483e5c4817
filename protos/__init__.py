"""The contracts: messages and services (generated), the framing of log records, the schema of an observation, the file of a task."""
