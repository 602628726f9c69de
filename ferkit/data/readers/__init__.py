"""Parsers that turn a published data set's own files into a Manifest."""
