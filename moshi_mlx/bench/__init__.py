"""What a machine can do: the bytes a frame reads, the time that takes, and how it is measured."""
