"""Text to speech: which word is fed when, how a text is read, whose voice it has, and the loop that says it."""
