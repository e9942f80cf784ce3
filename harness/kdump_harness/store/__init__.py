"""The central store of dumps that hosts send: intake, index, patterns, retention, bundles.

The folders are its two borders: intake/ handles untrusted files on their way in, bundles/ redacted files on their way
out. The modules next to them work on dumps that the store has.
"""
