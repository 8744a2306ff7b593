from .charts import save_png as save_png
from .drift_charts import sharpness_chart as sharpness_chart
from .marks import layered as layered
