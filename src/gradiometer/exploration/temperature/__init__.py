"""The temperature SGD runs at: the thermometer, the heat balance, and laws with known answers."""
