"""Where the codec computes: each direction in processes of its own, which end before their memory has grown.

child.py is such a process, process.py its parent's side, relay.py lets one take over from the other. Only mimi.py
comes in here; nothing here knows of models.
"""
