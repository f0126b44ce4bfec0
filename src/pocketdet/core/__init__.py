"""What every part agrees on: boxes out of logits, the letterbox, detections, metadata, drawing."""
