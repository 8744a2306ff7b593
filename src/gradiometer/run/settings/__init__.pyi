from .planned import planned as planned
from .watched import WatchedConfiguration as WatchedConfiguration
