"""The networks: backbones, neck, head, detector, and their files."""
