"""The command line: one file per command, what they share in common.py, what is drawn in display.py, tables.py and
screen.py."""
