"""The demo: the whole loop on a real data set, every part a process of its own, driven through the Policy API."""
