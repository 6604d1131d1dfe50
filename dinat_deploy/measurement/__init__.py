"""Measuring sessions: how fast, against what, and why.

records.py      what a measurement is told and what it finds, as JSON
statistics.py   figures of a sample of latencies
measuring.py    the protocol: warm-up, blocks of several artefacts in turn, when to stop
doubts.py       what makes figures doubtful
results.py      records of what was measured
environment.py  the machine that it ran on
roofline.py     what the model must compute and move, and the least time that takes on a device
report.py       JSON and Markdown
page.py         HTML with plots
"""
