"""Files, locks and sealed JSON: what everything above trusts the disk through."""
