"""The command `distloss doctor`: do the devices of this machine add up rightly?"""
