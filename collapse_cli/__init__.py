"""`collapse`: has this saved model collapsed?"""
