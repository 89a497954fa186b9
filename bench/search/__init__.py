"""Search of hyper-parameters: the same points and the same budget for every optimizer, as runs like any other."""
