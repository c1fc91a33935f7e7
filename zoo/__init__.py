"""The zoo: small models that really were trained, healthy and collapsed, and what the tool says of them.

`python -m zoo build` trains them and scans them, `python -m zoo report` writes `docs/accuracy.md` from what was seen.
"""
