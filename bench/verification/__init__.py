"""`bench verify-data`: what a folder of real data holds, and whether a study can use it."""
