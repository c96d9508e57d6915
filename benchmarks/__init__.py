"""Side-by-side measurements, and the tables in the docs that they write.

``python -m benchmarks`` lists them; ``python -m benchmarks NAME`` runs one.
"""
