"""Are the stored numbers numbers, in range, complete, and the ones that were meant?"""
