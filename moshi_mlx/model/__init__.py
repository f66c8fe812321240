"""The network, in pure MLX: Helium in time, the depth transformer within a frame. No files, no audio, no clocks."""
