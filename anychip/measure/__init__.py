"""How fast is this device really? Ten minutes of microbenchmarks through torch's public API, written as the standard's
rates: see `anychip.measure.run`. Works on torch >= 2.6 and any device that torch knows.
"""
