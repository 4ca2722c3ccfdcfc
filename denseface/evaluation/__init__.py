"""Numbers from arrays: metrics, their intervals and calibration."""
