"""The sections of the page, one file per section."""
