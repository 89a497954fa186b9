"""Experiment trackers: where else than in the study's own files a study's runs are shown while they run."""
