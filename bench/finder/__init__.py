"""crowdsafe's race finder beside frontrun: the same programs, racy and safe, given to both."""
