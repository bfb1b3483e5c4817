"""The server: answers Select with the propensities it drew from, logs every decision before the reply, and takes feedback."""
