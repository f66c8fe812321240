"""Where the codec computes: each direction in processes of its own, which end before their memory has grown.

child.py is such a process, process.py its parent's side, relay.py lets one take over from the other. Mimi.py comes
in here, and metrics that ask what it holds; nothing here knows of models.
"""
