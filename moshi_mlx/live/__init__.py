"""The conversation in real time: the audio path, the echo canceller, the loop and what is kept of it.

Everything here counts in frames of 80 ms. Nothing here draws on a terminal.
"""
