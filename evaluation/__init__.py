"""Measuring the codec: peers at equal bytes, the demo picture."""
