"""Encoded objects: the bytes of an object in fewer bytes, losslessly, in a file of `encoded/` instead of `objects/`.

`ckpt compact` makes them, off the training path. An object's name stays the hash of its raw bytes, so manifests,
digests and deduplication know nothing of it: who needs an object takes `objects/ab/<name>`, and where that is not,
`encoded/ab/<name>`. A file there may need one other object, its base, which needs none itself.

How (the README's format section is normative): a block of 64 Ki elements, perhaps as its difference to the same block
of the base, is cut into byte planes, and each plane is a zstd frame, or stands as it is where that is not smaller.
"""
