"""The field's equations as pure functions on tensors: each written once, with its formula, its source and its shapes.

Import the module that holds the equation (`from tutelage.equations.preferences import bradley_terry_loss`).
"""
