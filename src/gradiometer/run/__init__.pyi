from .artifacts import load_artifacts as load_artifacts
from .configuration import Configuration as Configuration
from .folder import run_folders as run_folders
from .reader import Run as Run
from .trust import trusting as trusting
