"""The network before it exists: thousands of peers on the real rules, by seed, in virtual time.

Everything here is drawn from one seed and ordered by one heap of events: no wall clock, no threads, no sockets.
"""
