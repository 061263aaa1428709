"""Networks: denoisers and observation encoders."""
