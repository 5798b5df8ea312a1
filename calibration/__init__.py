"""Calibration: int8 variants, judged by tokens, pictures and identity before they enter a bundle."""
