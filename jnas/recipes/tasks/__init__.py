"""What a found network is used for: detection, recognition, prediction, export."""
