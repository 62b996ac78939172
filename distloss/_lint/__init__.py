"""`distloss lint`: the bugs of the audit that can be seen in source; see README.md."""
