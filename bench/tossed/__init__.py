"""What recording costs the actors themselves: at every event a coin decides whether it is recorded.

Speed here changes by a tenth within 100 ms, for what others do on the machine. Turns of seconds
that are compared with each other need hours to tell 1 %; events that lie side by side, minutes.
"""
