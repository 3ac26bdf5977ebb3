"""Inference: recognise, search, answer, illustrate. No gradio, no SQL, no training."""
