from .charts import save_png as save_png
from .charts import sharpness_chart as sharpness_chart
from .marks import layered as layered
