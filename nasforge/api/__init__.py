"""The public verbs, one file or folder each, named as in `nasforge.<verb>`."""
