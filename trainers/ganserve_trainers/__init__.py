"""The torch half of ganserve: what the families share to train and export."""
