"""The sections of the page that the laboratory adds."""
