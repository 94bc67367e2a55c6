"""The files of a store that are the truth: objects, manifests, events, `run.json`."""
