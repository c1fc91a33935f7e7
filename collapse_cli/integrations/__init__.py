"""What other programs are told: training loops about their checkpoints, trackers of experiments about reports.

Nothing here imports the program it is for before that is used; where it is missing, an `InputError` names the package.
"""
