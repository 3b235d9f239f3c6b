"""Speed of the suite compared with its upper limit and other libraries, in one run on one machine."""
