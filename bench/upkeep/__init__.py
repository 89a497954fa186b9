"""`bench merge` and `bench clean`: bringing studies together, and removing what nobody needs any more."""
