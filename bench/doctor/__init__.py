"""`bench doctor`: what is wrong with an optimizer, and how it behaves on a real network."""
