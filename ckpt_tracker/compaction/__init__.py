"""Compaction: objects that lie raw in a store are encoded, off the training path; nothing that they hold is lost.

First a plan, from the manifests and one block of each object; then it is applied, a few objects at a time. An encoded
file is whole and durable, and has been read back against its name, before the raw bytes go; only that takes the store's
lock alone, for as long as it takes to delete some files. A kill at any moment leaves every checkpoint loadable.
"""
