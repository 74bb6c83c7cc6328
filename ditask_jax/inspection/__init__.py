"""Looking into trained runs: spectra before and after, how far layers moved, predictions on the same pictures."""
