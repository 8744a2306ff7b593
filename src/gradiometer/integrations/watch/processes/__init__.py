"""What the processes of one watched training exchange at a measured step."""
