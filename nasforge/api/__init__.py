"""The public verbs, one file or folder each, and the steps that several of them share."""
