from .trajectory import Trajectory as Trajectory
