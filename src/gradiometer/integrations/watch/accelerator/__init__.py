"""What an accelerator needs so that training does not wait for it: copies and clocks that are read
later."""
