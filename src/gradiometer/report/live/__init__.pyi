from .serve import Live as Live
