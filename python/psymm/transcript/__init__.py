"""What both parties of a custody signed: the record of its frames, its file and its journal."""
