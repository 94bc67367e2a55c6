"""The SQLite index: a cache over manifests and events."""
