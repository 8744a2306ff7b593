from .log import Log as Log
from .readers import read_log as read_log
from .verdicts import log_findings as log_findings
