"""Recorded requests, sent again to a running server: `callboard replay JOURNAL --to URL`."""
