"""Files that survive a killed process, a power cut and a full disk."""
