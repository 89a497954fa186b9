"""The commands, a module each. They parse options; what they need is imported when they run, so `--help` is instant."""
