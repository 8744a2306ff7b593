from .page import write_charts as write_charts
from .page import write_page as write_page
