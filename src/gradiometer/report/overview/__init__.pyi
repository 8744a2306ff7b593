from .listed import Listed as Listed
from .listed import listing as listing
from .page import write_overview as write_overview
