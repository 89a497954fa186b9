"""`bench status`: what of a study is done, running, failed and missing, read without torch."""
